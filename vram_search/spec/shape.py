"""The shape of a language model: the sizes that decide bytes, read from its `config.json`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from vram_search.errors import InputError
from vram_search.resources import shipped
from vram_search.spec.checkpoint import Checkpoint, read_checkpoint
from vram_search.spec.config_fields import MAX_LAYERS, ConfigFields, load_config
from vram_search.spec.expert_targets import kinds, left_to_experts
from vram_search.spec.experts import read_experts
from vram_search.spec.families import (
    MLP_OF_FOUR_HIDDEN,
    MODELLED,
    NOT_DECODERS,
    Family,
    family_of,
    read_window,
)
from vram_search.spec.lora_matching import LoraLayers, select_layers, with_layers_apart
from vram_search.spec.model_tree import LinearGroup, ModelTree
from vram_search.spec.not_modelled import OTHER_MODALITIES, reasons

MAX_PARAMETERS = 2**50
MLP = frozenset({"down_proj", "gate_proj", "up_proj", "gate_up_proj"})
"""Modelled families' linear layers in `mlp`; the others are in `self_attn`."""
OWN_CODE = (
    "its repository has code of its own (auto_map), which is not run here; choose a model whose "
    "class is in transformers"
)
HEAD_DIM_ROUNDED_DOWN = frozenset({"glm4_moe", "glm4_moe_lite"})
"""Families whose heads need not divide hidden_size: `Glm4MoeAttention` rounds down (transformers
`models/glm4_moe/modeling_glm4_moe.py`), latent attention has its own sizes (`glm4_moe_lite/`)."""


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
    """A decoder-only transformer with equal layers."""

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
    """Number of tokens from which these layers need an explicit mask; 0: they never need one."""
    sliding_layers: int = 0
    """Number of layers with the window; the others see the whole text."""
    residual_multiplier: bool = False
    """The branches are scaled before they are added (Granite)."""
    expert_parameters: int = 0
    """Parameters of the MLPs of a mixture of experts in all layers; `linears` does not hold them.
    Their weights are not `nn.Linear`, so bitsandbytes leaves them in 16 bits (transformers
    `integrations/bitsandbytes.py`, `replace_with_bnb_linear`). `intermediate_size` is the width
    that one token passes through."""
    not_modelled: tuple[str, ...] = ()
    """Reasons why an estimate of this model is generic; empty if its layers are modelled."""
    checkpoint: Checkpoint | None = None
    """The format of the files' weights if they are quantised already."""
    tree: ModelTree | None = field(default=None, repr=False)
    """The modules of transformers' class if no formula counts them. Its weights and linear layers
    then hold, and the fields above describe an average layer."""

    @property
    def q_size(self) -> int:
        return self.num_attention_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        return self.num_key_value_heads * self.head_dim

    @property
    def embedding_parameters(self) -> int:
        """Parameters of the input embedding, and of the output head unless the two are tied."""
        return self.vocab_size * self.hidden_size * (1 if self.tie_word_embeddings else 2)

    @property
    def linear_parameters(self) -> int:
        """Weights that are quantised: every linear layer of every block."""
        if self.tree is not None:
            return sum(g.count * g.parameters for g in self.tree.linears if g.storage == "nf4")
        return self.num_hidden_layers * sum(linear.parameters for linear in self.linears)

    @property
    def bias_parameters(self) -> int:
        per_block = sum(linear.out_features for linear in self.linears if linear.bias)
        return self.num_hidden_layers * per_block

    @property
    def parameters(self) -> int:
        """All parameters; tied embeddings once."""
        if self.tree is not None:
            return self.tree.parameters
        return (
            self.embedding_parameters
            + self.linear_parameters
            + self.bias_parameters
            + self.norm_parameters
            + self.expert_parameters
        )

    @cached_property
    def linear_groups(self) -> tuple[LinearGroup, ...]:
        """All linear layers by qualified name; a modelled family's are named as in Llama."""
        if self.tree is not None:
            return self.tree.linears
        numbers = tuple((layer,) for layer in range(self.num_hidden_layers))
        block = {
            linear.name: "mlp" if linear.name in MLP else "self_attn" for linear in self.linears
        }
        return tuple(
            LinearGroup(
                pattern=f"model.layers.{{}}.{block[linear.name]}.{linear.name}",
                numbers=numbers,
                in_features=linear.in_features,
                out_features=linear.out_features,
                has_bias=linear.bias,
                storage="nf4",
                part="text",
                class_name="Linear4bit",
                is_lora_target=True,
            )
            for linear in self.linears
        )

    @property
    def has_experts(self) -> bool:
        """It is a mixture of experts, whose weights are no linear layers."""
        if self.tree is not None:
            return self.tree.expert_parameters > 0
        return self.expert_parameters > 0

    @property
    def linear_kinds(self) -> tuple[str, ...]:
        """Last parts of the names of the layers that `all` gives an adapter."""
        kinds = (group.kind for group in self.linear_groups if group.is_lora_target)
        return tuple(dict.fromkeys(kinds))

    def lora_layers(self, lora_target: str) -> LoraLayers:
        """The linear layers that a LoRA target selects: a set, names with commas, or a regular
        expression.

        Raises:
            ValueError: the target matches no layer, or one in place of which peft would train all
                experts.
        """
        layers = self.selected(lora_target, self.linear_groups)
        if taken := left_to_experts(layers.groups):
            raise ValueError(
                f"peft 0.19 and newer train all experts in place of {kinds(taken)} "
                f"({self.model_type}), which is not planned; choose all, or names "
                f"out of {', '.join(self.linear_kinds)}"
            )
        return layers

    def selected(self, lora_target: str, linears: tuple[LinearGroup, ...]) -> LoraLayers:
        """The layers of a target, whatever peft makes of their names.

        Args:
            linears: all linear layers of the model.

        Raises:
            ValueError: the target matches no layer.
        """
        others = () if self.tree is None else self.tree.other_modules
        try:
            return select_layers(lora_target, linears, self.hidden_size, others)
        except ValueError as error:
            why = "; its experts are no linear layers" if self.has_experts else ""
            raise ValueError(f"{error}{why}") from None

    @cached_property
    def every_module(self) -> tuple[str, ...]:
        """Every linear layer of the text part as a Workload names them, with those in place of
        which peft 0.19 and newer train experts."""
        taken = left_to_experts(self.linear_groups)
        if not taken:
            return self.estimated_modules("all")
        linears = tuple(
            replace(group, is_lora_target=group.is_lora_target or group in taken)
            for group in self.linear_groups
        )
        return self.selected("all", linears).names

    @property
    def left_out_words(self) -> str:
        """Says which linear layers `all` leaves out; empty if it leaves out none."""
        taken = left_to_experts(self.linear_groups)
        if not taken:
            return ""
        return (
            f"lora_target all leaves out {kinds(taken)}: peft 0.19 and newer would train all "
            f"experts of {self.model_type} in their place"
        )

    def target_modules(self, lora_target: str) -> list[str]:
        """Module names for peft's `target_modules`.

        Raises:
            ValueError: the target matches no layer.
        """
        return list(self.lora_layers(lora_target).names)

    def estimated_modules(self, lora_target: str) -> tuple[str, ...]:
        """The modules as a Workload names them. A formula knows equal layers alone: a target that
        only some layers have counts for all of them, and a fused layer of a publisher's own code
        for those that the model has apart.

        Raises:
            ValueError: the target matches no layer, or one in place of which peft would train all
                experts.
        """
        self.lora_layers(with_layers_apart(lora_target, self.linear_kinds))
        return self.counted_modules(lora_target)

    def counted_modules(self, lora_target: str) -> tuple[str, ...]:
        """The same, whatever peft makes of the names: an older one gives each its adapter.

        Raises:
            ValueError: the target matches no layer.
        """
        target = with_layers_apart(lora_target, self.linear_kinds)
        layers = self.selected(target, self.linear_groups)
        if self.tree is not None:
            return layers.names
        return tuple(dict.fromkeys(group.kind for group in layers.groups))

    def lora_parameters(self, lora_target: str, rank: int) -> int:
        """Trainable parameters of an adapter."""
        return self.lora_layers(lora_target).parameters(rank)


def parse_shape(config: dict[str, Any], source: str) -> ModelShape:
    """Returns the shape that a `config.json` describes.

    Raises:
        InputError: the model is not a causal decoder, or a field is missing, makes no sense, or
            contradicts another field.
    """
    outer = ConfigFields(config, source)
    text_config = outer.section("text_config")
    fields = outer if text_config is None else ConfigFields(text_config, source)
    _check_decoder(outer, fields)
    model_type = fields.text("model_type")
    family = family_of(model_type)
    fields = fields.with_defaults(family.defaults)
    try:
        shape = _shape(fields, outer, model_type, family)
    except InputError as error:
        if model_type in MODELLED:
            raise
        message = f"{error.message} (model_type {model_type!r} is not modelled)"
        remedy = OWN_CODE if "auto_map" in outer.values else error.remedy
        raise InputError(message, remedy) from None
    if shape.parameters > MAX_PARAMETERS:
        raise fields.fault(f"{shape.parameters:.1e} parameters: absurd")
    return shape


def _check_decoder(outer: ConfigFields, fields: ConfigFields) -> None:
    is_wrapper = any(key in outer.values for key in OTHER_MODALITIES)
    if is_wrapper and fields is outer and "hidden_size" not in outer.values:
        raise outer.fault("the field 'text_config' is missing")
    model_type = fields.text("model_type")
    if model_type in NOT_DECODERS or any(f.flag("is_encoder_decoder") for f in (outer, fields)):
        raise outer.fault(f"model_type {model_type!r} is not a causal decoder")


def _shape(
    fields: ConfigFields, outer: ConfigFields, model_type: str, family: Family
) -> ModelShape:
    layers = fields.size("num_hidden_layers", most=MAX_LAYERS)
    hidden, heads = fields.size("hidden_size"), fields.size("num_attention_heads")
    intermediate = _intermediate_size(fields, model_type, hidden)
    kv_heads = fields.size_or_none("num_key_value_heads") or heads
    if heads % kv_heads:
        raise fields.fault(
            f"num_attention_heads ({heads}) is not a multiple of num_key_value_heads ({kv_heads})"
        )
    head_dim = fields.size_or_none("head_dim") or _head_dim(fields, model_type, hidden, heads)
    q_size, kv_size = heads * head_dim, kv_heads * head_dim
    experts = read_experts(fields, hidden, intermediate, layers)
    linears = _attention_linears(fields, family, hidden, q_size, kv_size)
    if experts is None:
        linears += _mlp_linears(fields, family, hidden, intermediate)
    window, sliding_layers = read_window(fields, family, layers)
    qk_parameters = {"": 0, "head": 2 * head_dim, "projection": q_size + kv_size}[family.qk_norm]
    norms = 2 * hidden * (family.pre_norm + family.post_norm) + qk_parameters
    return ModelShape(
        model_type=model_type,
        vocab_size=fields.size("vocab_size"),
        hidden_size=hidden,
        intermediate_size=experts.active_width if experts else intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        tie_word_embeddings=_is_tied(outer, fields),
        linears=linears,
        norm_parameters=layers * norms + hidden,
        pre_norm=family.pre_norm,
        post_norm=family.post_norm,
        qk_norm=bool(family.qk_norm),
        attention_softcap=bool(fields.number("attn_logit_softcapping")),
        final_softcap=bool(fields.number("final_logit_softcapping")),
        sliding_window=window,
        sliding_layers=sliding_layers,
        residual_multiplier=family.residual_multiplier,
        expert_parameters=experts.parameters if experts else 0,
        not_modelled=reasons(fields, outer, model_type, layers, experts),
        checkpoint=read_checkpoint(outer) or read_checkpoint(fields),
    )


def _head_dim(fields: ConfigFields, model_type: str, hidden: int, heads: int) -> int:
    if hidden % heads and model_type not in HEAD_DIM_ROUNDED_DOWN:
        raise fields.fault(
            f"hidden_size ({hidden}) is not a multiple of num_attention_heads ({heads}), "
            "and head_dim is not given"
        )
    return hidden // heads


def _intermediate_size(fields: ConfigFields, model_type: str, hidden: int) -> int:
    if model_type in MLP_OF_FOUR_HIDDEN:
        return fields.size_or_none("intermediate_size") or 4 * hidden
    if fields.count("num_experts") > 1 and fields.size_or_none("intermediate_size") is None:
        return fields.size("moe_intermediate_size")
    return fields.size("intermediate_size")


def _bias(fields: ConfigFields, bias: bool | str) -> bool:
    return fields.flag(bias) if isinstance(bias, str) else bias


def _attention_linears(
    fields: ConfigFields, family: Family, hidden: int, q_size: int, kv_size: int
) -> tuple[Linear, ...]:
    qkv_bias, o_bias = _bias(fields, family.qkv_bias), _bias(fields, family.o_bias)
    o_proj = Linear("o_proj", q_size, hidden, o_bias)
    if family.fused_projections:
        return (Linear("qkv_proj", hidden, q_size + 2 * kv_size, qkv_bias), o_proj)
    return (
        Linear("q_proj", hidden, q_size, qkv_bias),
        Linear("k_proj", hidden, kv_size, qkv_bias),
        Linear("v_proj", hidden, kv_size, qkv_bias),
        o_proj,
    )


def _mlp_linears(
    fields: ConfigFields, family: Family, hidden: int, intermediate: int
) -> tuple[Linear, ...]:
    bias = _bias(fields, family.mlp_bias)
    down_proj = Linear("down_proj", intermediate, hidden, bias)
    if family.fused_projections:
        return (Linear("gate_up_proj", hidden, 2 * intermediate, bias), down_proj)
    return (
        Linear("gate_proj", hidden, intermediate, bias),
        Linear("up_proj", hidden, intermediate, bias),
        down_proj,
    )


def _is_tied(outer: ConfigFields, fields: ConfigFields) -> bool:
    """True if the embeddings are tied; the outer configuration's field takes precedence."""
    key = "tie_word_embeddings"
    return outer.flag(key) if outer.values.get(key) is not None else fields.flag(key)


def load_shape(path: Path) -> ModelShape:
    """Loads the shape from a `config.json`, or from the folder that contains one.

    Raises:
        InputError: there is no such file, it is not JSON, or it does not describe a causal decoder.
    """
    file = path / "config.json" if path.is_dir() else path
    return parse_shape(load_config(file), str(file))


def shape_names() -> list[str]:
    """Slugs of the shipped model shapes."""
    return sorted(path.parent.name for path in shipped("configs", "models").glob("*/config.json"))
