"""What is proposed to a configuration that does not fit: mild, cheap, and enough."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from vram_search.estimate.changes import changes_to_fit, cheapest_changes
from vram_search.estimate.memory.hardware import Hardware
from vram_search.estimate.memory.predict import predict
from vram_search.estimate.memory.workload import Workload
from vram_search.estimate.memory_budget import MemoryBudget
from vram_search.resources import shipped
from vram_search.spec.card import Card
from vram_search.spec.shape import load_shape

SHAPE = load_shape(shipped("configs", "models", "qwen2.5-0.5b"))
GENEROUS = 200 * 2**30


def workload(**fields: Any) -> Workload:
    """A training in which everything that costs bytes is switched on."""
    costly: dict[str, Any] = {
        "shape": SHAPE,
        "lora_modules": ("q_proj", "v_proj"),
        "lora_dropout": 0.1,
        "lora_rank": 64,
        "optimizer": "adamw_torch",
        "per_device_train_batch_size": 12,
        "cutoff_len": 2048,
        "gradient_checkpointing": False,
        "quantization": "none",
        "attention": "eager",
        "per_device_eval_batch_size": 8,
        "eval_cutoff_len": 2048,
        "equal_lengths": False,
    }
    return Workload(**costly | fields)


def limit(budget_bytes: int, margin: float = 0.0, platform: str = "linux") -> MemoryBudget:
    card = Card.model_validate({"name": "c", "total_bytes": budget_bytes, "platform": platform})
    return MemoryBudget(card, Hardware(context_bytes=0), margin, "measured")


def required(asked: Workload) -> int:
    return predict(asked, Hardware(context_bytes=0)).required_bytes


def test_changes_come_in_the_order_of_their_cost() -> None:
    kinds = [change.name.split()[0] for change in cheapest_changes(workload(), limit(GENEROUS))]
    order = [
        "flash_attn",
        "enable_liger_kernel",
        "expandable_segments:True",
        "per_device_eval_batch_size",
        "optim",
        "per_device_train_batch_size",
        "gradient_checkpointing",
        "quantization_bit",
        "lora_dropout",
        "lora_rank",
        "cutoff_len",
    ]
    assert kinds == [kind for kind in order if kind in kinds]
    assert len(kinds) >= 9


def test_saved_bytes_are_those_of_the_changed_workload() -> None:
    before = workload()
    changes = {c.name: c.saved_bytes for c in cheapest_changes(before, limit(GENEROUS))}
    after = replace(before, gradient_checkpointing=True)
    assert changes["gradient_checkpointing"] == required(before) - required(after)
    after = replace(before, cutoff_len=1024, eval_cutoff_len=1024)
    assert changes["cutoff_len 1024"] == required(before) - required(after)
    after = replace(before, lora_dropout=0.0)
    assert changes["lora_dropout 0"] == required(before) - required(after) > 0


def test_micro_batch_and_accumulation_keep_their_product() -> None:
    batch = workload(per_device_train_batch_size=15, gradient_accumulation_steps=2)
    names = [change.name for change in cheapest_changes(batch, limit(GENEROUS))]
    assert "per_device_train_batch_size 5, gradient_accumulation_steps 6" in names


@pytest.mark.parametrize("length", [64, 128, 512, 1024])
def test_mildest_value_that_fits_is_proposed(length: int) -> None:
    asked = workload(cutoff_len=4096, eval_cutoff_len=4096)
    budget = required(replace(asked, cutoff_len=length, eval_cutoff_len=length))
    named = {c.name: c.fits for c in cheapest_changes(asked, limit(budget))}
    if length >= 256:
        assert named[f"cutoff_len {length}"] is True
    else:
        assert named["cutoff_len 2048"] is False


def test_what_is_on_already_is_not_proposed() -> None:
    asked = workload(
        gradient_checkpointing=True,
        fused_linear_cross_entropy=True,
        expandable_segments=True,
        quantization="nf4",
        attention="sdpa",
        optimizer="paged_lion_8bit",
        per_device_train_batch_size=1,
        per_device_eval_batch_size=0,
        lora_dropout=0.0,
        lora_rank=1,
        cutoff_len=1,
    )
    assert cheapest_changes(asked, limit(1)) == []


def test_expandable_segments_are_not_proposed_on_windows() -> None:
    def names(platform: str) -> list[str]:
        found = cheapest_changes(workload(), limit(GENEROUS, platform=platform))
        return [change.name for change in found]

    assert "expandable_segments:True" in names("linux")
    assert "expandable_segments:True" not in names("windows")


@pytest.mark.parametrize("share", [0.9, 0.5, 0.2, 0.1, 0.05, 0.03])
def test_changes_together_fit_and_none_is_idle(share: float) -> None:
    asked = workload()
    given = limit(round(required(asked) * share))
    names = changes_to_fit(asked, given)
    assert names
    assert given.fits(required(applied(asked, names)))
    for idle in range(len(names)):
        fewer = names[:idle] + names[idle + 1 :]
        assert not given.fits(required(applied(asked, fewer)))


def test_every_change_is_made_to_its_end_where_only_that_fits() -> None:
    least = workload(
        attention="sdpa",
        fused_linear_cross_entropy=True,
        expandable_segments=True,
        per_device_eval_batch_size=1,
        optimizer="adamw_8bit",
        per_device_train_batch_size=1,
        gradient_accumulation_steps=12,
        gradient_checkpointing=True,
        quantization="nf4",
        lora_dropout=0.0,
        lora_rank=4,
        cutoff_len=256,
        eval_cutoff_len=256,
    )
    names = changes_to_fit(workload(), limit(required(least)))
    assert names is not None
    assert "per_device_train_batch_size 1, gradient_accumulation_steps 12" in names
    assert "cutoff_len 256" in names


def applied(asked: Workload, names: list[str]) -> Workload:
    """The workload with changes, read from their names."""
    switches: dict[str, dict[str, Any]] = {
        "flash_attn sdpa": {"attention": "sdpa"},
        "enable_liger_kernel": {"fused_linear_cross_entropy": True},
        "expandable_segments:True": {"expandable_segments": True},
        "gradient_checkpointing": {"gradient_checkpointing": True},
        "quantization_bit 4": {"quantization": "nf4"},
        "lora_dropout 0": {"lora_dropout": 0.0},
    }
    fields: dict[str, Any] = {}
    for name in names:
        for part in name.split(", "):
            if part in switches:
                fields |= switches[part]
                continue
            key, value = part.split()
            fields |= {"optimizer": value} if key == "optim" else {key: int(value)}
            if key == "cutoff_len":
                fields["eval_cutoff_len"] = int(value)
    return replace(asked, **fields)


def test_nothing_is_needed_where_it_fits_and_nothing_helps_on_a_tiny_card() -> None:
    assert changes_to_fit(workload(), limit(GENEROUS)) == []
    assert changes_to_fit(workload(), limit(2**20)) is None


def test_margin_decides_whether_it_fits() -> None:
    needs = required(workload())
    assert limit(needs).fits(needs)
    assert not limit(needs, margin=0.01).fits(needs)
    assert limit(needs, margin=0.01).spare_bytes(needs) == pytest.approx(-0.01 * needs, abs=1)
