"""Adapters on all experts of a mixture, which the peft of a tool trains in place of linear layers.

Axolotl and TRL run with peft 0.19 and newer; LLaMA-Factory 0.9.5 pins peft 0.18, which gives the
linear layers of these names their adapters.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from vram_search.estimate.recipes.keys import RecipeKeys
from vram_search.spec.expert_targets import expert_names, left_to_experts
from vram_search.spec.lora_targets import compiled_expression, is_expression
from vram_search.spec.shape import ModelShape

FUSED = {"gate_up_proj": ({"gate_proj", "up_proj"}, {"w1", "w3"}), "down_proj": ({"w2"},)}
"""Stacked parameter of all experts -> names of the layers that it holds, but for its own name. Its
rank is the sum of theirs (peft `utils/transformers_weight_conversion.py`)."""


@dataclass(frozen=True)
class ExpertAdapters:
    """Experts that get an adapter in place of linear layers.

    Attributes:
        names: last parts of the names that it takes for those of experts; empty if it takes none.
        features: pairs of (how many, features) of the adapters' matrices, each of rank x features.
    """

    names: frozenset[str] = frozenset()
    features: tuple[tuple[int, int], ...] = ()


NO_EXPERTS = ExpertAdapters()


def expert_adapters(
    keys: RecipeKeys, named: object, shape: ModelShape, needs_more: list[str]
) -> ExpertAdapters:
    """Returns the experts' adapters of a target, and adds what is not counted to `needs_more`."""
    model_type = shape.model_type if shape.tree is None else shape.tree.model_type
    names = expert_names(model_type)
    targets = _named(named, names, shape) if names else frozenset[str]()
    if not targets:
        return ExpertAdapters(names)
    features = _features(targets, shape)
    counted = "weights, gradients and states of them are counted, temporary bytes are not"
    linear = "lora_target_linear"
    key = linear if keys.values.get(linear) else keys.found("lora_target")[0]
    needs_more.append(
        f"{key}: peft 0.19 and newer train adapters of all experts of "
        f"{model_type} in place of {', '.join(sorted(targets))}: "
        + (counted if features else "these are not counted")
    )
    return ExpertAdapters(names, features)


def _named(named: object, names: frozenset[str], shape: ModelShape) -> frozenset[str]:
    """Returns the names of experts that a target has. `all-linear` always has them (peft
    `_resolve_string_target_modules`), a tool's own list of linear layers where there are some."""
    if isinstance(named, list) and len(named) == 1:
        named = named[0]
    taken = left_to_experts(shape.linear_groups)
    if named == "all-linear":
        return names
    if named == "all":
        return names & {group.kind for group in taken}
    if isinstance(named, str) and is_expression(named):
        try:
            matches = compiled_expression(named).fullmatch
        except re.error:  # `modules_named` refuses it
            return frozenset()
        paths = [path for group in taken for path in group.names()]
        paths += [f"{owner}.{name}" for owner in _owners(shape) for name in names]
        return names & {path.rpartition(".")[2] for path in paths if matches(path)}
    listed = named.split(",") if isinstance(named, str) else named
    if not isinstance(listed, list):
        return frozenset()
    return names & {str(name).strip().rpartition(".")[2] for name in listed}


def _owners(shape: ModelShape) -> set[str]:
    """Returns the qualified names of the modules that hold experts."""
    tensors = () if shape.tree is None else shape.tree.tensors
    return {
        group.pattern.format(*numbers).rpartition(".")[0]
        for group in tensors
        if group.is_experts
        for numbers in group.numbers
    }


def _features(targets: frozenset[str], shape: ModelShape) -> tuple[tuple[int, int], ...]:
    found = []
    for group in () if shape.tree is None else shape.tree.tensors:
        kind = group.pattern.rpartition(".")[2]
        held = {kind}.union(*FUSED.get(kind, ())) & targets
        if group.is_experts and group.part == "text" and held:
            experts, *sides = group.shape
            found += [(group.count, len(held) * experts * side) for side in sides]
    return tuple(found)
