"""Writes a merged model as a GGUF file: Llama, Mistral, Qwen2 and Qwen3.

Names and metadata are llama.cpp's (`convert_hf_to_gguf.py`, package gguf). Tensors are read and
written one by one. Other families need llama.cpp's own converter.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind
from gguf.quants import quantize

from vram_search.errors import InputError
from vram_search.train.gguf_tokenizer import NEEDS_LLAMA_CPP, add_tokenizer
from vram_search.train.safetensors_files import model_files, read_tensor, stored_tensors

ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "mistral": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
}
"""By transformers' model_type."""
KINDS = {
    "bf16": (Kind.BF16, gguf.LlamaFileType.MOSTLY_BF16),
    "f16": (Kind.F16, gguf.LlamaFileType.MOSTLY_F16),
    "q8_0": (Kind.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
    "q4_0": (Kind.Q4_0, gguf.LlamaFileType.MOSTLY_Q4_0),
}
_EMBEDDINGS = ("token_embd.weight", "output.weight")


@dataclass(frozen=True)
class GgufTensor:
    """A tensor to write.

    Attributes:
        source: file and key in it, or the values.
        heads: number of heads whose halves are interleaved; 0: none.
    """

    name: str
    source: tuple[Path, str] | torch.Tensor
    shape: tuple[int, ...]
    kind: Any
    heads: int = 0

    @property
    def size_bytes(self) -> int:
        block, size = gguf.GGML_QUANT_SIZES[self.kind]
        return math.prod(self.shape) // block * size

    def values(self) -> np.ndarray[Any, Any]:
        """Returns the values in the tensor's kind."""
        source = self.source
        tensor = source if isinstance(source, torch.Tensor) else read_tensor(*source)
        tensor = tensor.float()
        if self.heads:
            tensor = interleave(tensor, self.heads)
        values: np.ndarray[Any, Any] = quantize(tensor.contiguous().numpy(), self.kind)
        return values


def write_gguf(
    folder: Path, config: Any, tokenizer: Any, target: Path, kind: str, *, end_token: int
) -> None:
    """Writes the model in `folder` as one GGUF file.

    Args:
        kind: form of the matrices: bf16, f16, q8_0 or q4_0. Norms and biases stay in fp32; with
            q4_0 the embeddings are in Q8_0.
        end_token: id of the token that ends an answer.

    Raises:
        InputError: the model's family, its rope scaling or its tokenizer is not written here.
    """
    architecture = architecture_of(config)
    tensors = list(_tensors(folder, config, architecture, kind))
    writer = gguf.GGUFWriter(target, gguf.MODEL_ARCH_NAMES[architecture])
    try:
        _add_settings(writer, config, kind)
        add_tokenizer(writer, tokenizer, config.vocab_size)
        writer.add_eos_token_id(end_token)
        for tensor in tensors:
            writer.add_tensor_info(
                tensor.name,
                tensor.shape,
                np.dtype(np.float32),
                tensor.size_bytes,
                raw_dtype=tensor.kind,
            )
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in tensors:
            writer.write_tensor_data(tensor.values())
    finally:
        writer.close()


def architecture_of(config: Any) -> Any:
    """Returns gguf's architecture of a configuration.

    Raises:
        InputError: it is not written here.
    """
    found = ARCHITECTURES.get(config.model_type)
    if found is None:
        raise InputError(
            f"GGUF files of the family {config.model_type} are not written here", NEEDS_LLAMA_CPP
        )
    return found


def _tensors(folder: Path, config: Any, architecture: Any, kind: str) -> Iterator[GgufTensor]:
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    for file in model_files(str(folder)):
        for key, _, shape in stored_tensors(file):
            name = names.get_name(key, try_suffixes=(".weight", ".bias"))
            if name is None:
                raise InputError(f"the weight {key} has no name in GGUF", NEEDS_LLAMA_CPP)
            form = _kind_of(name, shape, kind)
            yield GgufTensor(name, (file, key), shape, form, interleaved_heads(config, key))
    factors = rope_factors(config)
    if factors is not None:
        yield GgufTensor("rope_freqs.weight", factors, tuple(factors.shape), Kind.F32)


def _kind_of(name: str, shape: tuple[int, ...], kind: str) -> Any:
    """Matrices whose rows are no whole blocks stay in f16, as llama.cpp keeps them."""
    if len(shape) == 1:
        return Kind.F32
    chosen = Kind.Q8_0 if kind == "q4_0" and name in _EMBEDDINGS else KINDS[kind][0]
    return Kind.F16 if shape[-1] % gguf.GGML_QUANT_SIZES[chosen][0] else chosen


def interleaved_heads(config: Any, key: str) -> int:
    """Returns the heads of a weight whose halves must alternate, 0 for all other weights.

    llama.cpp's Llama rotates neighbouring elements, transformers' the two halves of a head.
    """
    if ARCHITECTURES[config.model_type] is not gguf.MODEL_ARCH.LLAMA:
        return 0
    if ".q_proj." in key:
        return int(config.num_attention_heads)
    return int(config.num_key_value_heads) if ".k_proj." in key else 0


def interleave(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Moves the rows of each head so that its two halves alternate.

    Args:
        weight: (heads x width, ...).
    """
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def _rope(config: Any) -> dict[str, Any]:
    return dict(getattr(config, "rope_parameters", None) or {})


def rope_factors(config: Any) -> torch.Tensor | None:
    """Returns Llama 3's factors of the rotation frequencies (transformers `modeling_rope_utils.py`,
    `_compute_llama3_parameters`); None for other models."""
    rope = _rope(config)
    if rope.get("rope_type") != "llama3":
        return None
    width = _head_width(config)
    frequencies = 1.0 / rope["rope_theta"] ** (torch.arange(0, width, 2).double() / width)
    length = 2 * math.pi / frequencies
    old = rope["original_max_position_embeddings"]
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    smooth = ((old / length - low) / (high - low)).clamp(0, 1)
    return (1 / ((1 - smooth) / rope["factor"] + smooth)).float()


def _head_width(config: Any) -> int:
    return int(
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )


def _add_settings(writer: gguf.GGUFWriter, config: Any, kind: str) -> None:
    writer.add_name(Path(str(config._name_or_path or config.model_type)).name)
    writer.add_file_type(KINDS[kind][1])
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    width = _head_width(config)
    writer.add_rope_dimension_count(width)
    if width * config.num_attention_heads != config.hidden_size or config.model_type == "qwen3":
        writer.add_key_length(width)
        writer.add_value_length(width)
    rope = _rope(config)
    writer.add_rope_freq_base(rope.get("rope_theta", 10000.0))
    scaling = rope.get("rope_type", "default")
    if scaling == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    elif scaling == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(rope["factor"])
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    elif scaling not in ("default", "llama3"):
        raise InputError(f"rope scaling {scaling} is not written here", NEEDS_LLAMA_CPP)
