"""The shape of a language model, as far as bytes go; read from its `config.json`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vram_search.errors import InputError
from vram_search.resources import shipped
from vram_search.spec.hyperparameters import LORA_TARGET_SETS

SEPARATE_PROJECTIONS = frozenset(
    {
        "llama",
        "mistral",
        "qwen2",
        "qwen3",
        "smollm3",
        "gemma",
        "gemma2",
        "gemma3_text",
        "granite",
        "olmo2",
    }
)
"""model_type of families whose blocks hold q, k, v, o, gate, up and down projections."""

_BIAS_ON_QKV = frozenset({"qwen2"})
"""Families whose q, k and v have a bias without their config saying so."""


@dataclass(frozen=True)
class Linear:
    """One kind of linear layer of a block: `in_features` x `out_features`."""

    name: str
    in_features: int
    out_features: int
    bias: bool = False

    @property
    def parameters(self) -> int:
        """Weights, without the bias."""
        return self.in_features * self.out_features

    def lora_parameters(self, rank: int) -> int:
        """Parameters of LoRA's A (rank x in) and B (out x rank) on this layer."""
        return rank * (self.in_features + self.out_features)


@dataclass(frozen=True)
class ModelShape:
    """A dense decoder-only transformer."""

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    tie_word_embeddings: bool
    linears: tuple[Linear, ...]
    norm_parameters: int
    """Parameters of all norms, biases excluded."""
    pre_norm: bool = True
    """A norm before attention and before the MLP (all but OLMo 2)."""
    post_norm: bool = False
    """A norm after attention and after the MLP (Gemma 2 and 3, OLMo 2)."""
    qk_norm: bool = False
    attention_softcap: bool = False
    final_softcap: bool = False
    sliding_window: int = 0
    """Tokens that a text needs for its layers to get an explicit mask; 0: never."""
    residual_multiplier: bool = False
    """The branches are scaled before they are added (Granite)."""

    @property
    def q_size(self) -> int:
        return self.num_attention_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        return self.num_key_value_heads * self.head_dim

    @property
    def embedding_parameters(self) -> int:
        """Input embedding, and the output head where it is not tied to it."""
        return self.vocab_size * self.hidden_size * (1 if self.tie_word_embeddings else 2)

    @property
    def linear_parameters(self) -> int:
        """Weights that are quantised: every linear layer of every block."""
        return self.num_hidden_layers * sum(linear.parameters for linear in self.linears)

    @property
    def bias_parameters(self) -> int:
        per_block = sum(linear.out_features for linear in self.linears if linear.bias)
        return self.num_hidden_layers * per_block

    @property
    def parameters(self) -> int:
        """All parameters; tied embeddings once."""
        return (
            self.embedding_parameters
            + self.linear_parameters
            + self.bias_parameters
            + self.norm_parameters
        )

    def target_linears(self, lora_target: str) -> tuple[Linear, ...]:
        """The linear layers of one block that a LoRA target names.

        Raises:
            ValueError: the model lacks a named module.
        """
        names = LORA_TARGET_SETS.get(lora_target, tuple(lora_target.split(",")))
        if names == ("all",):
            return self.linears
        by_name = {linear.name: linear for linear in self.linears}
        missing = [name for name in names if name not in by_name]
        if missing:
            raise ValueError(
                f"this model ({self.model_type}) has no {', '.join(missing)}; "
                f"it has {', '.join(by_name)}"
            )
        return tuple(by_name[name] for name in names)

    def target_modules(self, lora_target: str) -> list[str]:
        """Module names for peft's `target_modules`."""
        return [linear.name for linear in self.target_linears(lora_target)]

    def lora_parameters(self, lora_target: str, rank: int) -> int:
        """Trainable parameters of an adapter."""
        per_block = sum(linear.lora_parameters(rank) for linear in self.target_linears(lora_target))
        return self.num_hidden_layers * per_block


def parse_shape(config: dict[str, Any], source: str) -> ModelShape:
    """The shape that a `config.json` describes.

    Raises:
        InputError: a field is missing, or the family is not modelled.
    """
    config = config.get("text_config", config)
    model_type = str(config.get("model_type", "?"))
    if model_type not in SEPARATE_PROJECTIONS and model_type != "phi3":
        raise InputError(
            f"{source}: model_type {model_type!r} is not modelled yet",
            f"modelled: {', '.join(sorted(SEPARATE_PROJECTIONS | {'phi3'}))}",
        )
    try:
        hidden, intermediate = config["hidden_size"], config["intermediate_size"]
        layers, heads = config["num_hidden_layers"], config["num_attention_heads"]
        vocab = config["vocab_size"]
    except KeyError as missing:
        raise InputError(
            f"{source}: the field {missing} is missing",
            "a Hugging Face config.json of a causal language model is expected",
        ) from None
    kv_heads = config.get("num_key_value_heads") or heads
    counts = (hidden, intermediate, layers, heads, vocab, kv_heads, config.get("head_dim") or 1)
    if not all(type(count) is int and count > 0 for count in counts):
        raise InputError(f"{source}: a size is not a whole number above 0: {counts}")
    head_dim = config.get("head_dim") or hidden // heads
    q_size, kv_size = heads * head_dim, kv_heads * head_dim
    qkv_bias = bool(config.get("attention_bias", model_type in _BIAS_ON_QKV))
    # Llama and its kin give o_proj the same bias switch; qwen2's o_proj never has one.
    o_bias = qkv_bias and model_type not in _BIAS_ON_QKV
    mlp_bias = bool(config.get("mlp_bias", False))
    linears: tuple[Linear, ...]
    if model_type == "phi3":
        linears = (
            Linear("qkv_proj", hidden, q_size + 2 * kv_size),
            Linear("o_proj", q_size, hidden),
            Linear("gate_up_proj", hidden, 2 * intermediate),
            Linear("down_proj", intermediate, hidden),
        )
    else:
        linears = (
            Linear("q_proj", hidden, q_size, qkv_bias),
            Linear("k_proj", hidden, kv_size, qkv_bias),
            Linear("v_proj", hidden, kv_size, qkv_bias),
            Linear("o_proj", q_size, hidden, o_bias),
            Linear("gate_proj", hidden, intermediate, mlp_bias),
            Linear("up_proj", hidden, intermediate, mlp_bias),
            Linear("down_proj", intermediate, hidden, mlp_bias),
        )
    return ModelShape(
        model_type=model_type,
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        tie_word_embeddings=_is_tied(config, model_type),
        linears=linears,
        norm_parameters=_norm_parameters(model_type, layers, hidden, head_dim, q_size, kv_size),
        pre_norm=model_type != "olmo2",
        post_norm=model_type in {"gemma2", "gemma3_text", "olmo2"},
        qk_norm=model_type in {"qwen3", "gemma3_text", "olmo2"},
        attention_softcap=bool(config.get("attn_logit_softcapping")),
        final_softcap=bool(config.get("final_logit_softcapping")),
        sliding_window=_sliding_window(config, model_type),
        residual_multiplier=model_type == "granite",
    )


def _is_tied(config: dict[str, Any], model_type: str) -> bool:
    """transformers' Gemma configs tie by default, the others do not; phi3 never ties."""
    return bool(config.get("tie_word_embeddings", model_type.startswith("gemma")))


def _sliding_window(config: dict[str, Any], model_type: str) -> int:
    """Qwen switches its window off unless `use_sliding_window` says otherwise."""
    if model_type.startswith("qwen") and not config.get("use_sliding_window"):
        return 0
    return int(config.get("sliding_window") or 0)


def _norm_parameters(
    model_type: str, layers: int, hidden: int, head_dim: int, q_size: int, kv_size: int
) -> int:
    """RMSNorm weights by family (transformers `models/*/modeling_*.py`), and the last norm."""
    per_block = {
        "gemma2": 4 * hidden,
        "gemma3_text": 4 * hidden + 2 * head_dim,
        "qwen3": 2 * hidden + 2 * head_dim,
        "olmo2": 2 * hidden + q_size + kv_size,
    }.get(model_type, 2 * hidden)
    return layers * per_block + hidden


def load_shape(path: Path) -> ModelShape:
    """The shape in a `config.json`, or in the folder that holds one.

    Raises:
        InputError: no such file, not JSON, or a family that is not modelled.
    """
    file = path / "config.json" if path.is_dir() else path
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{file}: no such file", "give the folder of a model") from None
    except ValueError as error:
        raise InputError(f"{file}: not JSON ({error})", "is the download complete?") from None
    if not isinstance(config, dict):
        raise InputError(f"{file}: not a config.json (it holds no mapping)")
    return parse_shape(config, str(file))


def shape_names() -> list[str]:
    """Slugs of the shipped model shapes."""
    return sorted(path.parent.name for path in shipped("configs", "models").glob("*/config.json"))


_HUB_SLUGS = {
    "tinyllama-1.1b-chat-v1.0": "tinyllama-1.1b",
    "mistral-7b-instruct-v0.3": "mistral-7b-v0.3",
    "olmo-2-0425-1b": "olmo-2-1b",
    "olmo-2-0425-1b-instruct": "olmo-2-1b",
    "olmo-2-1124-7b": "olmo-2-7b",
    "olmo-2-1124-7b-instruct": "olmo-2-7b",
}
"""Hub names whose shape has another slug here."""


def shipped_shape_for(name: str) -> str | None:
    """The slug whose weights a hub name means: "Qwen/Qwen2.5-3B-Instruct" -> "qwen2.5-3b"."""
    slug = name.rsplit("/", 1)[-1].lower()
    candidates = shape_names()
    slug = _HUB_SLUGS.get(slug, slug)
    for suffix in ("", "-instruct", "-it", "-chat", "-hf", "-base"):
        stem = slug.removesuffix(suffix) if suffix else slug
        if stem in candidates:
            return stem
    return None
