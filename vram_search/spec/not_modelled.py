"""Finds the reasons why an estimate is generic: parts of a model that the layer model lacks."""

from __future__ import annotations

from vram_search.spec.checkpoint import quantization_method
from vram_search.spec.config_fields import ConfigFields
from vram_search.spec.experts import Experts
from vram_search.spec.families import GENERIC, MODELLED

_LAYER_NORM = "LayerNorm"
_PARALLEL = "attention and MLP side by side"
_UNGATED = "MLP without a gate"
_ROTATION = "rotation of interleaved pairs"
_LATENT = "multi-head latent attention"
_SINKS = "attention sinks"
_HYBRID = "layers that are not attention"

_OLDER = (_LAYER_NORM, _UNGATED)

_REASONS: dict[str, tuple[str, ...]] = {
    "apertus": (_UNGATED, "activation with trained parameters"),
    "arcee": (_UNGATED,),
    "bitnet": ("weights of 1.58 bits", "norms before the output projections"),
    "bloom": _OLDER,
    "codegen": (*_OLDER, _PARALLEL),
    "cohere": (_LAYER_NORM, _PARALLEL, _ROTATION),
    "cohere2": (_LAYER_NORM, _PARALLEL, _ROTATION),
    "deepseek_v2": (_LATENT,),
    "deepseek_v3": (_LATENT,),
    "deepseek_v32": (_LATENT, "sparse attention"),
    "diffllama": ("differential attention",),
    "ernie4_5": (_ROTATION,),
    "falcon": (*_OLDER, _PARALLEL),
    "gemma3n_text": ("alternating updates and per-layer embeddings",),
    "gemma4_text": ("per-layer embeddings and shared keys and values",),
    "glm": (_ROTATION,),
    "glm4": (_ROTATION, "norms before and after"),
    "glm4_moe_lite": (_LATENT,),
    "gpt2": _OLDER,
    "gpt_bigcode": _OLDER,
    "gpt_neo": _OLDER,
    "gpt_neox": (*_OLDER, _PARALLEL),
    "gpt_oss": (_SINKS,),
    "gptj": (*_OLDER, _PARALLEL, _ROTATION),
    "granite_swa": (_SINKS,),
    "helium": (_ROTATION,),
    "jais2": _OLDER,
    "llama4_text": ("chunked attention",),
    "minicpm3": (_LATENT,),
    "mpt": _OLDER,
    "nemotron": _OLDER,
    "olmo": (_LAYER_NORM,),
    "opt": _OLDER,
    "persimmon": _OLDER,
    "phi": (*_OLDER, _PARALLEL),
    "phimoe": (_LAYER_NORM,),
    "stablelm": (_LAYER_NORM, "rotation of a part of each head"),
    "starcoder2": _OLDER,
    "vaultgemma": ("norms without those after the branches",),
    "xglm": _OLDER,
    "youtu": (_LATENT,),
}
"""Reasons why a known family is not modelled."""

_HYBRIDS = frozenset(
    {
        *("bailing_hybrid", "bamba", "falcon_h1", "falcon_mamba", "granitemoehybrid", "jamba"),
        *("kimi_linear", "lfm2", "lfm2_moe", "lfm3", "mamba", "mamba2", "minimax", "nemotron_h"),
        *("olmo_hybrid", "qwen3_5_moe_text", "qwen3_5_text", "qwen3_next", "recurrent_gemma"),
        *("rwkv", "xlstm", "zamba", "zamba2"),
    }
)
"""Families of state space, convolution or linear attention layers."""

_FAR_OFF = (_HYBRID, _LAYER_NORM, _UNGATED, "is unknown", "its layers are not attention")
"""Reasons with which the generic formula was a quarter to two thirds too low on a GPU."""

_DROPOUTS = ("residual_dropout", "resid_pdrop", "embd_pdrop", "hidden_dropout")
ALREADY_QUANTIZED = "the checkpoint is already quantised"
TEXT_ALONE = "the text model alone is counted"
OTHER_MODALITIES = ("vision_config", "audio_config")
_LAYER_KINDS = frozenset({"full_attention", "sliding_attention"})


def reasons(
    fields: ConfigFields, outer: ConfigFields, model_type: str, layers: int, experts: Experts | None
) -> tuple[str, ...]:
    """Returns the reasons why a model is not modelled; empty if it is modelled.

    Args:
        outer: the whole configuration, of which `fields` may be the `text_config`.
    """
    found = list(_of_family(model_type, experts))
    if experts:
        found.append(f"{model_type}: a mixture of {experts.count} experts")
    kinds = set(fields.per_layer("layer_types", layers, str) or ()) - _LAYER_KINDS
    if kinds:
        found.append(f"{model_type}: layers of {', '.join(sorted(kinds))}")
    found += [f"{name} {fields.number(name):g}" for name in _DROPOUTS if fields.number(name)]
    if fields.flag("use_post_norm"):
        found.append("use_post_norm: norms before and after")
    if fields.values.get("use_bidirectional_attention"):  # true, or "vision"
        found.append("use_bidirectional_attention")
    if any(outer.values.get(key) is not None for key in OTHER_MODALITIES):
        found.append(f"{outer.values.get('model_type')}: {TEXT_ALONE}")
    method = _quantization(outer) or _quantization(fields)
    if method:
        found.append(f"{ALREADY_QUANTIZED} ({method})")
    return tuple(found)


def is_far_off(found: tuple[str, ...]) -> bool:
    """Returns True if the generic formula is known to be far off for one of these reasons."""
    return any(word in reason for reason in found for word in _FAR_OFF)


def is_hybrid(found: tuple[str, ...]) -> bool:
    """Returns True if one of these reasons is that layers are not attention."""
    return any(_HYBRID in reason for reason in found)


def _of_family(model_type: str, experts: Experts | None) -> tuple[str, ...]:
    if model_type in MODELLED:
        return ()
    if model_type in _HYBRIDS:
        return (f"{model_type}: {_HYBRID}",)
    if model_type in _REASONS:
        return tuple(f"{model_type}: {reason}" for reason in _REASONS[model_type])
    if model_type in GENERIC:
        return ()
    mlp = "" if experts else " with a gated MLP"
    return (f"model_type {model_type!r} is unknown: estimated as a decoder{mlp}",)


def _quantization(fields: ConfigFields) -> str:
    """Returns the quantisation method of the checkpoint; empty for plain weights, and for NF4 of
    bitsandbytes, which this program uses itself."""
    section = fields.section("quantization_config")
    if section is None:
        return ""
    quantization = ConfigFields(section, fields.place)
    skipped = section.get("llm_int8_skip_modules") or ["lm_head"]
    if section.get("bnb_4bit_quant_type") == "nf4" and skipped == ["lm_head"]:
        return ""
    return quantization_method(quantization)
