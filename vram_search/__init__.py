"""vram-search: the QLoRA configuration with the lowest eval_loss that fits your card.

The Python API is described in docs/python-api.md. A name's module is imported when the name is
first asked for (PEP 562): `import vram_search` loads neither torch nor Optuna nor pydantic.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

TYPE_CHECKING = False  # importing `typing` takes most of this package's import time
__version__ = "0.1.0"

if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "GpPruner",
    "GpSampler",
    "InputError",
    "Results",
    "StoreError",
    "VramSearchError",
    "__version__",
    "estimate",
    "estimate_file",
    "export",
    "fit",
    "load_study",
    "open_store",
    "plan_study",
    "run_study",
]


class CallablePackage(ModuleType):
    """A package that is also the API's function of the same name, as `vram_search.estimate`.

    Python binds a subpackage to its name in `vram_search` as soon as one of its modules is
    imported. Package and function therefore have to be one object.
    """

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self._function(*arguments, **options)

    @property
    def __signature__(self) -> Any:
        from inspect import signature

        return signature(self._function)

    @property
    def _function(self) -> Any:
        return getattr(import_module("vram_search.api"), self.__name__.rpartition(".")[2])


if TYPE_CHECKING:
    from vram_search.answers.results import Results as Results
    from vram_search.api import estimate as estimate
    from vram_search.api import estimate_file as estimate_file
    from vram_search.api import export as export
    from vram_search.api import fit as fit
    from vram_search.api import load_study as load_study
    from vram_search.api import open_store as open_store
    from vram_search.api import plan_study as plan_study
    from vram_search.api import run_study as run_study
    from vram_search.errors import InputError as InputError
    from vram_search.errors import StoreError as StoreError
    from vram_search.errors import VramSearchError as VramSearchError
    from vram_search.search.gp.sampler import GpPruner as GpPruner
    from vram_search.search.gp.sampler import GpSampler as GpSampler
else:
    _MODULES = {
        "GpPruner": "search.gp.sampler",
        "GpSampler": "search.gp.sampler",
        "InputError": "errors",
        "Results": "answers.results",
        "StoreError": "errors",
        "VramSearchError": "errors",
        "estimate_file": "api",
        "fit": "api",
        "load_study": "api",
        "open_store": "api",
        "plan_study": "api",
        "run_study": "api",
    }
    _PACKAGES = ("estimate", "export")

    def __getattr__(name):
        if name in _PACKAGES:
            return import_module(f"vram_search.{name}")
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"vram_search.{_MODULES[name]}"), name)

    def __dir__():
        return sorted({*globals(), *__all__})
