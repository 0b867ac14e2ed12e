"""Writes a LoRA adapter as a GGUF file, for Ollama's ADAPTER line and llama.cpp's `--lora`.

Names and metadata are those of llama.cpp's `convert_lora_to_gguf.py`: the two matrices of each
layer in fp32, and `adapter.lora.alpha`. llama.cpp adds `alpha / rank * B @ A` to the base's
weight (`llama-adapter.h`, `get_scale`). Families are those of `write_gguf`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import torch

from vram_search.errors import InputError, VramSearchError
from vram_search.train.adapter_weights import AdapterWeights
from vram_search.train.write_gguf import architecture_of, interleave, interleaved_heads

MERGE_INSTEAD = "write the merged model instead: --to ollama"
TOLERANCE = 1e-5
"""Largest difference of B @ A read back, as a share of its largest element; all is in fp32."""


def write_gguf_adapter(adapter: AdapterWeights, config: Any, target: Path) -> None:
    """Writes the adapter and checks it by reading it back.

    Raises:
        InputError: the family or the kind of adapter has no such file.
    """
    names = _tensor_names(adapter, config)
    modules = sorted(adapter.lora)
    alpha = adapter.scaling(modules[0]) * adapter.lora[modules[0]].rank
    writer = gguf.GGUFWriter(target, gguf.MODEL_ARCH_NAMES[architecture_of(config)])
    try:
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
        for module in modules:
            tensors = adapter.lora[module].tensors
            # One alpha holds for the file: a layer with another scaling has it in B.
            factor = adapter.scaling(module) * adapter.lora[module].rank / alpha
            b = tensors["lora_B"].float() * factor
            heads = interleaved_heads(config, f"{module}.weight")
            b = interleave(b, heads) if heads else b
            writer.add_tensor(f"{names[module]}.lora_a", tensors["lora_A"].float().numpy())
            writer.add_tensor(f"{names[module]}.lora_b", b.contiguous().numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()
    _check(adapter, config, target)


def read_changes(
    file: Path, adapter: AdapterWeights, config: Any
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yields each layer's module name and what the file adds to its weight, rows in transformers'
    order, in fp32."""
    reader = gguf.GGUFReader(file)
    alpha = float(reader.fields[gguf.Keys.Adapter.LORA_ALPHA].contents())
    tensors = {tensor.name: torch.tensor(tensor.data) for tensor in reader.tensors}
    for module, name in _tensor_names(adapter, config).items():
        a, b = tensors[f"{name}.lora_a"], tensors[f"{name}.lora_b"]
        change = b @ a * (alpha / a.shape[0])
        heads = interleaved_heads(config, f"{module}.weight")
        yield module, _restored(change, heads) if heads else change


def _restored(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Moves the rows back that `interleave` moved."""
    pairs = weight.reshape(heads, weight.shape[0] // heads // 2, 2, *weight.shape[1:])
    return pairs.swapaxes(1, 2).reshape(weight.shape)


def _check(adapter: AdapterWeights, config: Any, file: Path) -> None:
    """Compares what the file adds to each weight with scaling * B @ A of the adapter.

    Raises:
        VramSearchError: they differ.
    """
    for module, change in read_changes(file, adapter, config):
        expected = adapter.merged(module, torch.zeros_like(change))
        allowed = TOLERANCE * float(expected.abs().max())
        difference = float((change - expected).abs().max())
        if difference > allowed:
            raise VramSearchError(
                f"{file.name}: {module} differs by {difference:.2g} from the adapter",
                MERGE_INSTEAD,
            )


def _tensor_names(adapter: AdapterWeights, config: Any) -> dict[str, str]:
    """Returns the GGUF name of the weight of each adapted layer, by module name.

    Raises:
        InputError: llama.cpp adds no such adapter to a base model.
    """
    known = gguf.get_tensor_name_map(architecture_of(config), config.num_hidden_layers)
    if adapter.whole:
        raise _refused(f"trained {min(adapter.whole)} whole")
    found = {}
    for module, parts in adapter.lora.items():
        if "lora_magnitude_vector" in parts.tensors:
            raise _refused("is a DoRA")
        if parts.is_embedding or module.endswith("lm_head"):
            raise _refused(f"changes the embeddings ({module})")
        name = known.get_name(f"{module}.weight", try_suffixes=(".weight",))
        if name is None:
            raise _refused(f"changes {module}, which has no name in GGUF")
        found[module] = name
    return found


def _refused(why: str) -> InputError:
    return InputError(f"the adapter {why}: llama.cpp loads no such adapter", MERGE_INSTEAD)
