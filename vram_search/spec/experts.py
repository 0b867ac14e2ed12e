"""Counts the parameters of a mixture of experts, and its width for one token."""

from __future__ import annotations

from dataclasses import dataclass

from vram_search.spec.config_fields import ConfigFields


@dataclass(frozen=True)
class Experts:
    """The MLPs of a mixture of experts, over all layers."""

    count: int
    per_token: int
    parameters: int
    """Routed and shared experts, routers, and the MLPs of layers without experts."""
    active_width: int
    """Number of intermediate features that one token passes through in a layer."""


def read_experts(
    fields: ConfigFields, hidden: int, intermediate: int, layers: int
) -> Experts | None:
    """Reads the experts from a config.json; None if it names fewer than two.

    Sources: transformers `models/mixtral/modeling_mixtral.py` (`MixtralExperts`),
    `qwen2_moe/modeling_qwen2_moe.py` (`Qwen2MoeSparseMoeBlock`, `Qwen2MoeDecoderLayer`),
    `deepseek_v3/modeling_deepseek_v3.py` (`DeepseekV3DecoderLayer`).
    """
    count = fields.count("num_experts")
    if count < 2:
        return None
    per_token = fields.count("num_experts_per_tok") or 1
    width = fields.size_or_none("moe_intermediate_size") or intermediate
    gated_shared = fields.count("shared_expert_intermediate_size")
    shared = (
        fields.count("n_shared_experts") * width
        or gated_shared
        or fields.count("shared_intermediate_size")
    )
    sparse = count * (3 * hidden * width + hidden) + 3 * hidden * shared
    sparse += hidden if gated_shared else 0
    dense = 3 * hidden * intermediate
    without = _layers_without_experts(fields, layers)
    return Experts(
        count=count,
        per_token=per_token,
        parameters=(layers - without) * sparse + without * dense,
        active_width=per_token * width + shared,
    )


def _layers_without_experts(fields: ConfigFields, layers: int) -> int:
    step = fields.count("decoder_sparse_step") or 1
    first = fields.count("first_k_dense_replace")
    named = fields.layer_numbers("mlp_only_layers")
    return sum(1 for i in range(layers) if i < first or i in named or (i + 1) % step)
