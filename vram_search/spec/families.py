"""Facts about a model_type that are in its code, not in config.json: projections, norms, biases.

Read from transformers 5.23 `models/*/configuration_*.py` (defaults, layer types) and
`modeling_*.py` (the rest), and compared with the classes themselves by
tests/spec/test_spec_families.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from vram_search.spec.config_fields import ConfigFields

SlidingRule = Callable[[ConfigFields, int], int]
"""Counts the layers with a sliding window among `n` layers if `layer_types` is not given, as the
configuration class does."""


def _every_layer(_fields: ConfigFields, n: int) -> int:
    return n


def _every_other_layer(_fields: ConfigFields, n: int) -> int:
    return n - n // 2


def _all_but_every_nth(fields: ConfigFields, n: int) -> int:
    return n - n // fields.size("sliding_window_pattern")


def _all_but_every_fourth(_fields: ConfigFields, n: int) -> int:
    return n - n // 4


def _all_but_every_fourth_from_first(_fields: ConfigFields, n: int) -> int:
    return n - -(-n // 4)


def _upper_layers(fields: ConfigFields, n: int) -> int:
    return max(0, n - fields.count("max_window_layers"))


def _layers_without_rotation(fields: ConfigFields, n: int) -> int:
    if not fields.flag("use_sliding_window"):
        return 0
    rotates = fields.per_layer("no_rope_layers", n, int)
    return n // fields.size("no_rope_layer_interval") if rotates is None else rotates.count(0)


@dataclass(frozen=True)
class Family:
    """One model_type. A bias is True, False, or the field of config.json that turns it on."""

    qkv_bias: bool | str = "attention_bias"
    o_bias: bool | str = "attention_bias"
    mlp_bias: bool | str = "mlp_bias"
    fused_projections: bool = False
    """`qkv_proj` and `gate_up_proj` in place of five layers."""
    pre_norm: bool = True
    post_norm: bool = False
    qk_norm: Literal["", "head", "projection"] = ""
    """RMSNorm of q and k: over each head, or over the whole projection."""
    residual_multiplier: bool = False
    norm_keeps_dtype: bool = False
    """The norm's output has the dtype of its input, not of its weight (`.type_as(x)`). Liger does
    not overwrite the gradient of such a norm's output with the gradient of its input."""
    liger_fuses_loss: bool = False
    """liger-kernel fuses head and loss by default (liger_kernel `transformers/monkey_patch.py`)."""
    slides: SlidingRule | None = None
    """None: the model's code has no window and ignores the fields of config.json."""
    reads_layer_types: bool = True
    """False if all layers slide and the model's code ignores `layer_types`."""
    window_switch: bool = False
    """True if only `use_sliding_window` turns the window on, and `layer_types` alone does not."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Defaults of the configuration class that are not None or False."""


_LLAMA = Family(liger_fuses_loss=True)
_UNKNOWN = Family(slides=_every_layer)
_NO_BIAS = Family(qkv_bias=False, o_bias=False, mlp_bias=False)
_ALL_SLIDE = replace(_NO_BIAS, slides=_every_layer, reads_layer_types=False)
_GEMMA_FAMILY = Family(mlp_bias=False, norm_keeps_dtype=True, liger_fuses_loss=True)
_LATER_GEMMA = replace(_UNKNOWN, norm_keeps_dtype=True)
_MISTRAL = {"num_key_value_heads": 8, "sliding_window": 4096}
_QWEN = {"num_key_value_heads": 32, "sliding_window": 4096, "max_window_layers": 28}
_GEMMA = {"head_dim": 256, "tie_word_embeddings": True}
_GEMMA2 = {**_GEMMA, "num_key_value_heads": 4, "sliding_window": 4096}

MODELLED: dict[str, Family] = {
    "llama": _LLAMA,
    "iquestcoder": Family(defaults={"num_key_value_heads": 8, "head_dim": 128}),
    "internlm3": Family(
        qkv_bias="qkv_bias",
        o_bias="bias",
        mlp_bias="bias",
        defaults={"num_key_value_heads": 2, "head_dim": 128},
    ),
    "mistral": replace(_ALL_SLIDE, liger_fuses_loss=True, defaults=_MISTRAL),
    "ministral": replace(_NO_BIAS, slides=_every_layer, defaults=_MISTRAL),
    "ministral3": replace(_ALL_SLIDE, defaults={"num_key_value_heads": 8, "head_dim": 128}),
    "cwm": replace(
        _NO_BIAS,
        slides=_all_but_every_fourth_from_first,
        defaults={"num_key_value_heads": 8, "head_dim": 128, "sliding_window": 8192},
    ),
    "qwen2": Family(
        liger_fuses_loss=True,
        qkv_bias=True,
        o_bias=False,
        mlp_bias=False,
        slides=_upper_layers,
        window_switch=True,
        defaults=_QWEN,
    ),
    "qwen3": Family(
        liger_fuses_loss=True,
        mlp_bias=False,
        qk_norm="head",
        slides=_upper_layers,
        window_switch=True,
        defaults={**_QWEN, "head_dim": 128},
    ),
    "hunyuan_v1_dense": Family(mlp_bias=False, qk_norm="head"),
    "seed_oss": Family(
        o_bias="attention_out_bias",
        defaults={
            "num_key_value_heads": 8,
            "head_dim": 128,
            "attention_bias": True,
            "residual_dropout": 0.1,
        },
    ),
    "smollm3": Family(
        liger_fuses_loss=True,
        slides=_layers_without_rotation,
        defaults={
            "num_key_value_heads": 4,
            "tie_word_embeddings": True,
            "no_rope_layer_interval": 4,
        },
    ),
    "gemma": replace(_GEMMA_FAMILY, defaults={**_GEMMA, "num_key_value_heads": 16}),
    "gemma2": replace(
        _GEMMA_FAMILY,
        post_norm=True,
        slides=_every_other_layer,
        defaults={**_GEMMA2, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
    ),
    "gemma3_text": replace(
        _GEMMA_FAMILY,
        post_norm=True,
        qk_norm="head",
        slides=_all_but_every_nth,
        defaults={**_GEMMA2, "sliding_window_pattern": 6},
    ),
    "granite": Family(residual_multiplier=True),
    "hyperclovax": Family(residual_multiplier=True, defaults={"use_post_norm": True}),
    "olmo2": Family(
        mlp_bias=False,
        pre_norm=False,
        post_norm=True,
        qk_norm="projection",
        liger_fuses_loss=True,
    ),
    "olmo3": Family(
        mlp_bias=False,
        pre_norm=False,
        post_norm=True,
        qk_norm="projection",
        slides=_all_but_every_fourth,
        defaults={"sliding_window": 4096},
    ),
    "exaone4": replace(
        _NO_BIAS,
        pre_norm=False,
        post_norm=True,
        qk_norm="head",
        slides=_all_but_every_nth,
        defaults={
            "num_key_value_heads": 32,
            "sliding_window": 4096,
            "sliding_window_pattern": 4,
        },
    ),
    "phi3": replace(_ALL_SLIDE, fused_projections=True, liger_fuses_loss=True),
}
"""Families with a decoder layer that the estimate follows operation by operation."""

GENERIC: dict[str, Family] = {
    "dots1": Family(
        mlp_bias=False,
        qk_norm="head",
        slides=_upper_layers,
        defaults={"sliding_window": 4096, "max_window_layers": 62, "num_key_value_heads": 32},
    ),
    "gemma3n_text": _LATER_GEMMA,
    "gemma4_text": _LATER_GEMMA,
    "glm4_moe": Family(o_bias=False, mlp_bias=False, defaults={"num_key_value_heads": 8}),
    "gpt_oss": Family(
        slides=_every_other_layer,
        defaults={
            "num_key_value_heads": 8,
            "head_dim": 64,
            "attention_bias": True,
            "sliding_window": 128,
        },
    ),
    "granitemoe": Family(mlp_bias=False, residual_multiplier=True),
    "mixtral": replace(_ALL_SLIDE, defaults={"num_key_value_heads": 8}),
    "olmoe": Family(mlp_bias=False, qk_norm="projection"),
    "phimoe": Family(
        mlp_bias=False,
        slides=_every_layer,
        reads_layer_types=False,
        defaults={"num_key_value_heads": 8},
    ),
    "qwen2_moe": Family(
        qkv_bias="qkv_bias",
        o_bias=False,
        mlp_bias=False,
        slides=_every_other_layer,
        window_switch=True,
        defaults={"qkv_bias": True, "num_key_value_heads": 16, "sliding_window": 4096},
    ),
    "qwen3_moe": Family(
        mlp_bias=False,
        qk_norm="head",
        slides=_every_layer,
        reads_layer_types=False,
        window_switch=True,
        defaults={"num_key_value_heads": 4, "sliding_window": 4096},
    ),
}
"""Families whose layers are not modelled. Their parameters are counted from these facts."""

MLP_OF_FOUR_HIDDEN = frozenset(
    {"bloom", "codegen", "falcon", "gpt2", "gpt_bigcode", "gpt_neo", "gptj", "mpt"}
)
"""Families with an intermediate size of 4 x hidden_size if config.json does not give it."""

NOT_DECODERS = frozenset(
    {
        *("albert", "bart", "bert", "big_bird", "blenderbot", "camembert", "clip", "deberta"),
        *("deberta-v2", "distilbert", "electra", "ernie", "eurobert", "led", "longformer"),
        *("longt5", "m2m_100", "marian", "mbart", "modernbert", "mpnet", "mt5", "pegasus"),
        *("roberta", "siglip", "switch_transformers", "t5", "t5gemma", "umt5", "vit", "whisper"),
        *("xlm-roberta", "xlm-roberta-xl"),
    }
)


def family_of(model_type: str) -> Family:
    """Returns the traits of a family; an unknown family is treated as Llama with a window."""
    return MODELLED.get(model_type) or GENERIC.get(model_type) or _UNKNOWN


def read_window(fields: ConfigFields, family: Family, layers: int) -> tuple[int, int]:
    """Returns the sliding window in tokens and the number of its layers; (0, 0) without one."""
    types = fields.per_layer("layer_types", layers, str)
    window = fields.count("sliding_window")
    switched_off = family.window_switch and not fields.flag("use_sliding_window")
    if family.slides is None or switched_off or not window:
        return 0, 0
    if types is not None and family.reads_layer_types:
        sliding = types.count("sliding_attention")
    else:
        sliding = family.slides(fields, layers)
    return (window, sliding) if sliding else (0, 0)
