"""Reads a LoRA adapter and merges it into single weights of its base model.

Formulas are those of peft 0.21: `tuners/lora/layer.py` (`get_delta_weight`, scaling), `tuners/lora/
dora.py` (`DoraLinearLayer.get_weight_norm`), `utils/other.py` (`get_pattern_key`).
"""

from __future__ import annotations

import contextlib
import math
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from peft import LoraConfig, PeftConfig
from peft.utils.other import get_pattern_key
from safetensors import safe_open

from vram_search.errors import InputError, VramSearchError, first_line

ADAPTER_FILE = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_LORA = re.compile(
    r"(?P<module>.+)\.(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B|"
    r"lora_magnitude_vector)(?:\.weight)?"
)
_KINDS = ("", "embedding_")
_MESSAGE = 200
"""Characters of a library's message in ours."""
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Initialisations that change the base's weights: the adapter alone does not belong to the base."""


@dataclass
class LoraParts:
    """The tensors of one adapted layer, by peft's names."""

    tensors: dict[str, torch.Tensor] = field(default_factory=dict)

    @property
    def is_embedding(self) -> bool:
        return "lora_embedding_A" in self.tensors

    @property
    def rank(self) -> int:
        name = "lora_embedding_A" if self.is_embedding else "lora_A"
        return self.tensors[name].shape[0]


class AdapterWeights:
    """An adapter's tensors by the name of the weight that they change.

    Attributes:
        lora: by module name, layers with an adapter.
        whole: by parameter name, weights and biases that were trained whole (`modules_to_save`).
    """

    def __init__(self, folder: Path) -> None:
        """Reads all tensors of an adapter.

        Raises:
            InputError: the adapter is no LoRA, or of a form that is not merged here.
        """
        self.config = _config(folder)
        self.lora: dict[str, LoraParts] = {}
        self.whole: dict[str, torch.Tensor] = {}
        with (
            refusing_damage(folder),
            safe_open(folder / ADAPTER_FILE, framework="pt") as opened,
        ):
            for key in opened.keys():  # noqa: SIM118 (it is no mapping)
                self._add(key.removeprefix(_PREFIX), opened.get_tensor(key))
        for module, parts in self.lora.items():
            if not any({f"lora_{kind}A", f"lora_{kind}B"} <= {*parts.tensors} for kind in _KINDS):
                raise damaged(folder, f"half of the matrices of {module} is missing")

    def _add(self, name: str, tensor: torch.Tensor) -> None:
        name = name.replace(".base_layer.bias", ".bias")
        match = _LORA.fullmatch(name)
        if name.endswith(".base_layer.weight"):
            return  # peft saves an adapted embedding's own weight with it; the base has the same
        if match is not None:
            parts = self.lora.setdefault(match["module"], LoraParts())
            parts.tensors[match["part"]] = tensor
        elif "lora_" in name or "trainable_tokens" in name:
            raise InputError(
                f"the adapter's {name} cannot be merged here",
                "merge it with peft: merge_and_unload()",
            )
        else:
            self.whole[name] = tensor

    def scaling(self, module: str) -> float:
        """Returns the factor of B @ A: alpha / rank, or alpha / sqrt(rank) for rsLoRA."""
        patterns = self.config.alpha_pattern or {}
        alpha = patterns.get(get_pattern_key(patterns.keys(), module), self.config.lora_alpha)
        rank = self.lora[module].rank
        return float(alpha) / (math.sqrt(rank) if self.config.use_rslora else rank)

    def merged(self, module: str, weight: torch.Tensor) -> torch.Tensor:
        """Returns a layer's weight with its adapter, in fp32.

        Args:
            weight: (outputs, inputs); (inputs, outputs) of a transposed layer, such as GPT-2's;
                (words, width) of an embedding.

        Raises:
            InputError: the adapter does not fit the weight.
        """
        parts, tensors = self.lora[module], self.lora[module].tensors
        base = weight.float()
        is_transposed = self.config.fan_in_fan_out and not parts.is_embedding
        if is_transposed:
            base = base.T
        if parts.is_embedding:
            delta = (tensors["lora_embedding_B"].float() @ tensors["lora_embedding_A"].float()).T
        else:
            if tensors["lora_A"].ndim != 2:
                raise _refused(module, "it is a convolution")
            delta = tensors["lora_B"].float() @ tensors["lora_A"].float()
        if delta.shape != base.shape:
            raise _refused(module, f"it is {tuple(delta.shape)}, the weight {tuple(base.shape)}")
        changed = base + delta * self.scaling(module)
        magnitude = tensors.get("lora_magnitude_vector")
        if magnitude is not None:
            if parts.is_embedding:
                raise _refused(module, "DoRA of an embedding is not merged here")
            norm = torch.linalg.norm(changed, dim=1)
            changed = changed * (magnitude.float().reshape(-1) / norm).unsqueeze(1)
        return changed.T if is_transposed else changed


@contextlib.contextmanager
def refusing_damage(folder: Path) -> Iterator[None]:
    """Turns what peft and safetensors raise about an adapter's files into one sentence. Matrices
    that are missing, for which peft only warns and keeps zeros, count as damage."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", ".*missing adapter keys.*")
            yield
    except (torch.OutOfMemoryError, VramSearchError):
        raise
    except Exception as error:  # any value of a damaged file may raise anything in there
        first = first_line(error)
        raise damaged(
            folder, first if len(first) <= _MESSAGE else f"{first[:_MESSAGE]} ..."
        ) from None


def damaged(folder: Path, fault: str) -> InputError:
    """Returns the error about an adapter that cannot be used."""
    return InputError(
        f"the adapter in {folder} is damaged: {fault}",
        "use another trial (`vram-search top` lists them), or train this one again: `vram-search "
        "train`",
    )


def _config(folder: Path) -> LoraConfig:
    with refusing_damage(folder):
        config = PeftConfig.from_pretrained(folder)
    if not isinstance(config, LoraConfig):
        raise InputError(f"{folder}: an adapter of the type {config.peft_type} cannot be merged")
    start = str(config.init_lora_weights).lower()
    if start.startswith(_CHANGES_BASE):
        raise InputError(
            f"{folder}: init_lora_weights {start} changed the base's weights before the training",
            "merge it with peft on the base that was trained",
        )
    return config


def _refused(module: str, why: str) -> InputError:
    return InputError(f"the adapter of {module} cannot be merged: {why}")
