"""The cheapest changes that make a configuration need fewer bytes."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any, NamedTuple

from vram_search.estimate.memory.predict import predict
from vram_search.estimate.memory.workload import Workload
from vram_search.estimate.memory_budget import MemoryBudget
from vram_search.spec.card_facts import CardFacts
from vram_search.spec.optimizers import OPTIMIZERS

SHORTEST_CUTOFF_LEN = 256
SMALLEST_RANK = 4
"""No shorter text and no smaller rank is proposed, unless one halving leads there."""


@dataclass(frozen=True)
class Change:
    """One change to a configuration, made alone."""

    name: str
    """Keys and values as LLaMA-Factory spells them."""
    cost: str
    """The cost for the user, in a few words."""
    saved_bytes: int
    """Required bytes that the change saves."""
    fits: bool


class Variant(NamedTuple):
    """A change's name and the workload's fields with it."""

    name: str
    fields: dict[str, Any]


class Option(NamedTuple):
    """One kind of change: what it costs, and its variants, the mildest first."""

    cost: str
    variants: list[Variant]


def cheapest_changes(workload: Workload, limit: MemoryBudget) -> list[Change]:
    """The changes that save bytes, each alone and as mild as makes it fit, the cheapest first."""
    required = predict(workload, limit.hardware).required_bytes
    found = []
    for cost, variants in _options(workload, limit.card):
        place = _first_that_fits(variants, workload, limit)
        variant = variants[place or 0]
        changed = predict(replace(workload, **variant.fields), limit.hardware).required_bytes
        if changed < required:
            found.append(Change(variant.name, cost, required - changed, limit.fits(changed)))
    return found


def changes_to_fit(workload: Workload, limit: MemoryBudget) -> list[str] | None:
    """Names of changes that together make it fit, none of them idle; None where all do not."""
    taken: list[Variant] = []
    for _, variants in _options(workload, limit.card):
        if _fits(taken, workload, limit):
            break
        place = _first_that_fits(variants, _changed(workload, taken), limit)
        taken.append(variants[-1 if place is None else place])
    if not _fits(taken, workload, limit):
        return None
    for variant in reversed(taken):
        without = [other for other in taken if other is not variant]
        if _fits(without, workload, limit):
            taken = without
    return [variant.name for variant in taken]


def _options(workload: Workload, card: CardFacts) -> list[Option]:
    """Changes that may save bytes, the cheapest first: free ones, precision, time, model, texts."""
    options = []

    def offer(is_open: bool, cost: str, name: str, **fields: Any) -> None:
        if is_open:
            options.append(Option(cost, [Variant(name, fields)]))

    offer(workload.attention == "eager", "nothing", "flash_attn sdpa", attention="sdpa")
    offer(
        not workload.fused_linear_cross_entropy,
        "nothing; Windows: Triton",
        "enable_liger_kernel",
        fused_linear_cross_entropy=True,
    )
    offer(
        card.platform == "linux" and not workload.expandable_segments,
        "in PYTORCH_ALLOC_CONF",
        "expandable_segments:True",
        expandable_segments=True,
    )
    offer(
        workload.per_device_eval_batch_size > 1,
        "slower evaluation",
        "per_device_eval_batch_size 1",
        per_device_eval_batch_size=1,
    )
    eight_bit = OPTIMIZERS[workload.optimizer].eight_bit_form
    offer(eight_bit is not None, "8-bit states", f"optim {eight_bit}", optimizer=eight_bit)
    if workload.per_device_train_batch_size > 1:
        options.append(Option("a little time", _smaller_batches(workload)))
    offer(
        not workload.gradient_checkpointing,
        "a third more time",
        "gradient_checkpointing",
        gradient_checkpointing=True,
    )
    offer(
        workload.quantization != "nf4" and not workload.trained_base_parameters,
        "a base in 4 bits",
        "quantization_bit 4",
        quantization="nf4",
    )
    offer(workload.lora_dropout > 0, "no dropout", "lora_dropout 0", lora_dropout=0.0)
    if workload.lora_rank > 1 and not workload.trained_base_parameters:
        ranks = _halves(workload.lora_rank, SMALLEST_RANK)
        variants = [Variant(f"lora_rank {rank}", {"lora_rank": rank}) for rank in ranks]
        options.append(Option("a smaller adapter", variants))
    if workload.cutoff_len > 1:
        options.append(Option("longer texts are cut", _shorter_texts(workload)))
    return options


def _smaller_batches(workload: Workload) -> list[Variant]:
    """Divisors of the micro-batch; micro-batch x accumulation stays the same."""
    batch = whole = workload.per_device_train_batch_size
    variants = []
    while batch > 1:
        batch //= _smallest_factor(batch)
        fields = {
            "per_device_train_batch_size": batch,
            "gradient_accumulation_steps": workload.gradient_accumulation_steps * whole // batch,
        }
        name = ", ".join(f"{name} {value}" for name, value in fields.items())
        variants.append(Variant(name, fields))
    return variants


def _smallest_factor(number: int) -> int:
    factors = (factor for factor in range(2, int(number**0.5) + 1) if number % factor == 0)
    return next(factors, number)


def _shorter_texts(workload: Workload) -> list[Variant]:
    is_shared = workload.eval_cutoff_len == workload.cutoff_len
    names = ("cutoff_len", "eval_cutoff_len") if is_shared else ("cutoff_len",)
    return [
        Variant(f"cutoff_len {length}", dict.fromkeys(names, length))
        for length in _halves(workload.cutoff_len, SHORTEST_CUTOFF_LEN)
    ]


def _halves(value: int, least: int) -> list[int]:
    """The half, its half and so on down to `least`; one at least."""
    powers = range(2, value.bit_length())
    return [value // 2, *takewhile(lambda half: half >= least, (value >> p for p in powers))]


def _first_that_fits(
    variants: list[Variant], workload: Workload, limit: MemoryBudget
) -> int | None:
    """Place of the mildest variant that fits; the bytes fall from each to the next."""
    place = bisect_left(variants, True, key=lambda variant: _fits([variant], workload, limit))
    return place if place < len(variants) else None


def _fits(taken: list[Variant], workload: Workload, limit: MemoryBudget) -> bool:
    return limit.fits(predict(_changed(workload, taken), limit.hardware).required_bytes)


def _changed(workload: Workload, taken: list[Variant]) -> Workload:
    for variant in taken:
        workload = replace(workload, **variant.fields)
    return workload
