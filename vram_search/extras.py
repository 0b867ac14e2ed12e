"""Names what to install when a command needs packages that the light installation leaves out."""

from __future__ import annotations

from importlib.util import find_spec

from vram_search.errors import InputError, VramSearchError

INSTALL = "pip install 'vram-search[train]'"
_ENTRY_PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "optuna")
_PACKAGES = (
    *_ENTRY_PACKAGES,
    *("accelerate", "gguf", "huggingface_hub", "numpy", "rich", "safetensors"),
    *("threadpoolctl", "tokenizers"),
)
"""Packages of the extra `train`, and those that it brings along."""


class MissingPackageError(InputError):
    """A package of the extra `train` is not installed."""


def check_training_packages() -> None:
    """Checks that the packages are here that a training process imports; imports none of them.

    Raises:
        InputError: one is missing.
    """
    for name in _ENTRY_PACKAGES:
        if find_spec(name) is None:
            raise missing_package(name)


def import_fault(error: ImportError) -> VramSearchError:
    """Returns what an import lacked: a package of the extra `train`, or else a file of the
    installation, which another program may have replaced while a search ran."""
    package = (error.name or "").partition(".")[0]
    if package in _PACKAGES and isinstance(error, ModuleNotFoundError):
        return missing_package(package)
    return VramSearchError(
        f"a part of the program cannot be imported: {error}",
        "the installation is incomplete or was changed while this command ran: install "
        "vram-search again and repeat the command; what was recorded is kept",
    )


def missing_package(name: str, what: str = "this") -> MissingPackageError:
    """Returns the error for a package of the extra `train`.

    Args:
        what: what needs it, the subject of the sentence.
    """
    return MissingPackageError(f"{what} needs the package {name}, which is not installed", INSTALL)
