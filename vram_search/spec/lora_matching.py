"""Which linear layers a LoRA target selects, matched as peft matches module names.

Sources: peft `tuners/tuners_utils.py` (`check_target_module_exists`): a text is a regular
expression for whole module names, each name in a list matches a module of that name or one that
ends with it. LLaMA-Factory 0.9.5 `model_utils/misc.py` (`find_all_linear_modules`): `all`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from vram_search.spec.lora_targets import (
    ALL,
    LORA_TARGET_SETS,
    compiled_expression,
    is_expression,
)
from vram_search.spec.model_tree import LinearGroup

TRAINED_PARTS = frozenset({"text", "head"})
"""The vision tower and the projector of a model are frozen, whatever a target says."""
_ATTENTION = ("attn", "attention")
_OUTPUT_NAMES = frozenset({"dense", "c_proj", "proj", "wo"})
_SEQUENCE_MIXERS = frozenset({"conv", "mamba", "mixer", "recurrent", "rglru", "ssm"})
"""Modules beside attention that are no MLP."""
FUSED = dict.fromkeys(
    ("query_key_value", "W_pack", "c_attn", "qkv", "Wqkv", "att_proj"),
    ("q_proj", "k_proj", "v_proj"),
)
"""One layer for query, key and value in a publisher's own code -> the layers that it is counted as
in a model that has them apart: the same weights, and LoRA's A three times."""


@dataclass(frozen=True)
class LoraLayers:
    """The linear layers that get an adapter.

    Attributes:
        groups: of each name and size, with the selected layers alone.
        names: peft's `target_modules`, which match these layers and no others.
    """

    groups: tuple[LinearGroup, ...]
    names: tuple[str, ...]

    def parameters(self, rank: int) -> int:
        """Trainable parameters: A (rank x in) and B (out x rank) of each layer."""
        return sum(rank * g.count * (g.in_features + g.out_features) for g in self.groups)


def with_layers_apart(lora_target: str, kinds: Collection[str]) -> str:
    """Returns a target with the layers that a model has in place of a fused one, if it has them.

    Args:
        kinds: last parts of the names of the model's layers.
    """
    if is_expression(lora_target):
        return lora_target
    names: dict[str, None] = {}
    for name in lora_target.split(","):
        last = name.rpartition(".")[2]
        apart = () if last in kinds else [layer for layer in FUSED.get(last, ()) if layer in kinds]
        names.update(dict.fromkeys(apart or (name,)))
    return ",".join(names)


@lru_cache(maxsize=512)
def select_layers(
    lora_target: str,
    linears: tuple[LinearGroup, ...],
    hidden_size: int,
    others: tuple[str, ...] = (),
) -> LoraLayers:
    """Returns the layers of a target: a set, names with commas, or a regular expression.

    Args:
        linears: all linear layers of the model.
        others: patterns of the modules that are no linear layers, which peft's names must not
            match.

    Raises:
        ValueError: the target matches no layer that can be trained.
    """
    trained = [group for group in linears if group.part in TRAINED_PARTS]
    candidates = [group for group in trained if group.is_lora_target]
    if lora_target in ALL:
        groups = candidates
    elif lora_target in LORA_TARGET_SETS:
        groups = _of_set(lora_target, candidates, hidden_size)
    elif is_expression(lora_target):
        groups = _matching(lora_target, trained)
    else:
        groups = _named(lora_target.split(","), trained)
    if not groups:
        raise ValueError(f"{_nothing(lora_target)}; {_has(candidates)}")
    return LoraLayers(tuple(groups), _peft_names(groups, linears, others))


def _nothing(lora_target: str) -> str:
    if is_expression(lora_target):
        return "the expression matches no linear layer of the text model by its whole name"
    return f"this model has no layers for {lora_target}"


def _has(candidates: Iterable[LinearGroup]) -> str:
    return f"it has {', '.join(dict.fromkeys(group.kind for group in candidates)) or 'none'}"


def _named(names: Sequence[str], trained: Sequence[LinearGroup]) -> list[LinearGroup]:
    found: dict[str, list[LinearGroup]] = {name: _ending(name, trained) for name in names}
    missing = [name for name, groups in found.items() if not groups]
    if missing:
        candidates = [group for group in trained if group.is_lora_target]
        raise ValueError(f"this model has no {', '.join(missing)}; {_has(candidates)}")
    return _merged([group for groups in found.values() for group in groups], trained)


def _ending(name: str, trained: Sequence[LinearGroup]) -> list[LinearGroup]:
    """Returns the layers of a name, or whose qualified names end with it."""
    if not any(part.isdecimal() for part in name.split(".")):
        return [g for g in trained if g.pattern == name or g.pattern.endswith(f".{name}")]
    return _filtered(trained, lambda full: full == name or full.endswith(f".{name}"))


def _matching(expression: str, trained: Sequence[LinearGroup]) -> list[LinearGroup]:
    try:
        matches = compiled_expression(expression).fullmatch
    except re.error as error:
        raise ValueError(f"is not a regular expression ({error})") from None
    return _filtered(trained, lambda full: matches(full) is not None)


def _filtered(groups: Sequence[LinearGroup], keeps: Callable[[str], bool]) -> list[LinearGroup]:
    """Returns the layers whose qualified names a condition holds for."""
    kept = []
    for group in groups:
        pairs = zip(group.numbers, group.names(), strict=True)
        numbers = tuple(number for number, name in pairs if keeps(name))
        if numbers:
            kept.append(replace(group, numbers=numbers))
    return kept


def _merged(groups: Sequence[LinearGroup], trained: Sequence[LinearGroup]) -> list[LinearGroup]:
    """Joins parts of one group that several names selected."""
    numbers: dict[LinearGroup, dict[tuple[int, ...], None]] = {}
    for group in groups:
        whole = next(g for g in trained if replace(g, numbers=()) == replace(group, numbers=()))
        numbers.setdefault(whole, {}).update(dict.fromkeys(group.numbers))
    return [
        replace(whole, numbers=tuple(number for number in whole.numbers if number in kept))
        for whole, kept in numbers.items()
    ]


def _of_set(name: str, candidates: list[LinearGroup], hidden_size: int) -> list[LinearGroup]:
    """Returns the layers of a set: by Llama's names, or by their place where the model has others.

    Of attention `qv` leaves out keys and outputs; `qkvo_gu` adds the MLP's layers that do not lead
    back to the hidden size.
    """
    names = LORA_TARGET_SETS[name]
    if set(names) <= {group.kind for group in candidates}:
        return [group for kind in names for group in candidates if group.kind == kind]
    attention = [group for group in candidates if _is_attention(group)]
    if name == "qv":
        return [g for g in attention if not _is_output(g) and not g.kind.startswith("k")]
    if name == "qkvo" or not attention:
        return attention
    mlp = [g for g in candidates if not _is_attention(g) and not _is_sequence_mixer(g)]
    return attention + [group for group in mlp if group.out_features != hidden_size]


def _is_attention(group: LinearGroup) -> bool:
    return any(word in group.pattern.rpartition(".")[0].lower() for word in _ATTENTION)


def _is_output(group: LinearGroup) -> bool:
    return group.kind.startswith("o") or group.kind in _OUTPUT_NAMES


def _is_sequence_mixer(group: LinearGroup) -> bool:
    return not _SEQUENCE_MIXERS.isdisjoint(group.pattern.split("."))


def _peft_names(
    groups: Sequence[LinearGroup], linears: Sequence[LinearGroup], others: Collection[str]
) -> tuple[str, ...]:
    """Returns the shortest names that match these layers and nothing else in the model."""
    chosen = {group.pattern: set(group.numbers) for group in groups}
    outside = {g.pattern for g in linears if set(g.numbers) - chosen.get(g.pattern, set())}
    outside |= set(others)
    outside |= {parent for pattern in outside for parent in _parents(pattern)}
    names: dict[str, None] = {}
    for group in groups:
        short = _shortest_suffix(group.pattern, outside)
        names.update(dict.fromkeys(group.names() if short is None else (short,)))
    return tuple(names)


def _parents(pattern: str) -> Iterator[str]:
    """Yields the modules that contain one; a wrapper around a linear layer may have the name of a
    layer elsewhere (Gemma 4's vision tower has `q_proj.linear`)."""
    while pattern := pattern.rpartition(".")[0]:
        yield pattern


def _shortest_suffix(pattern: str, outside: Collection[str]) -> str | None:
    """Returns the end of a name that no other module has; None where a number belongs to it."""
    words = pattern.split(".")
    for start in range(len(words) - 1, -1, -1):
        if words[start] == "{}":
            return None
        suffix = ".".join(words[start:])
        if not any(other == suffix or other.endswith(f".{suffix}") for other in outside):
            return suffix
    return None
