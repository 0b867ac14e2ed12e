"""The planner: every plan keeps the batch and the pins, and the fastest that fits is chosen."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.factories import make_point
from vram_search.errors import InputError
from vram_search.estimate import (
    PlannedTrial,
    check_card_holds_base,
    choose_plan,
    estimate_base_bytes,
    next_smaller,
    planner,
    plans,
    predict,
    settle_plan,
    smallest,
    workload_of,
)
from vram_search.estimate.calibration import hardware_for
from vram_search.estimate.memory.hardware import Hardware
from vram_search.estimate.memory.workload import Workload
from vram_search.estimate.planner import Longest, decide_liger, liger_available
from vram_search.estimate.step_time import Speed, StepTimeModel, step_seconds
from vram_search.models.tree import read_shape
from vram_search.resources import shipped
from vram_search.spec import Card, Hyperparameters, ModelShape, PlanPins, load_shape
from vram_search.spec.card import card_names, load_card
from vram_search.units import GIB, KIB, MIB, format_bytes

QWEN_3B = load_shape(shipped("configs", "models", "qwen2.5-3b"))
GRANITE = load_shape(shipped("configs", "models", "granite-3.3-2b"))
POINT = make_point(lora_target="qv", lora_rank=8, cutoff_len=1024, batch_size=16)
LINUX = Card(name="linux", total_bytes=16 * GIB)
WINDOWS = Card(name="windows", total_bytes=16 * GIB, platform="windows")
WORKSPACES = 2 * 8320 * KIB
"""cuBLAS, forward and backward, on a card that is no data-centre one."""
MARGINS = st.floats(0, 0.3)
SHARES = st.floats(0, 1.2)
"""Of what the largest plan of all requires: budgets from nothing to room for every plan."""


@st.composite
def candidates(draw: st.DrawFn) -> list[PlannedTrial]:
    return plans(
        draw(st.from_type(ModelShape)),
        draw(st.from_type(Hyperparameters)),
        draw(st.from_type(Card)),
        draw(st.from_type(PlanPins)),
        eval_cutoff_len=draw(st.integers(16, 8192)),
    )


@given(
    shape=st.from_type(ModelShape),
    point=st.from_type(Hyperparameters),
    card=st.from_type(Card),
    pins=st.from_type(PlanPins),
    eval_cutoff_len=st.integers(16, 8192),
    data=st.data(),
)
def test_every_plan_keeps_the_batch_the_pins_and_the_platform(
    shape: ModelShape,
    point: Hyperparameters,
    card: Card,
    pins: PlanPins,
    eval_cutoff_len: int,
    data: st.DataObject,
) -> None:
    divisors = [n for n in range(1, point.batch_size + 1) if point.batch_size % n == 0]
    pins = pins.model_copy(
        update={
            "per_device_train_batch_size": data.draw(st.none() | st.sampled_from(divisors)),
        }
    )
    found = plans(shape, point, card, pins, eval_cutoff_len=eval_cutoff_len)
    assert found
    pinned = pins.model_dump(exclude={"skip_infeasible"}, exclude_none=True)
    for candidate in found:
        plan = candidate.plan
        assert plan.batch_size == point.batch_size
        assert pinned.items() <= plan.model_dump().items()
        if pins.expandable_segments is None:
            assert plan.expandable_segments is (card.platform == "linux")
        if pins.per_device_eval_batch_size is None:
            rows = plan.per_device_eval_batch_size
            assert 1 <= rows <= 16
            training_tokens = plan.per_device_train_batch_size * point.cutoff_len
            assert rows == 1 or rows * eval_cutoff_len <= training_tokens
    assert len({candidate.plan for candidate in found}) == len(found)


@given(found=candidates())
def test_candidates_are_fastest_first(found: list[PlannedTrial]) -> None:
    costs = [candidate.step_seconds for candidate in found]
    assert costs == sorted(costs)


@given(
    shape=st.from_type(ModelShape),
    point=st.from_type(Hyperparameters),
    card=st.from_type(Card),
    factor=st.floats(0.1, 10),
)
def test_candidates_carry_the_seconds_of_the_pace_that_is_given(
    shape: ModelShape, point: Hyperparameters, card: Card, factor: float
) -> None:
    step_time = StepTimeModel(Speed(300e12, 2e12), factor)
    found = plans(shape, point, card, PlanPins(), eval_cutoff_len=512, step_time=step_time)
    for candidate in found:
        assert candidate.step_seconds == step_seconds(candidate.estimate.workload, step_time)


def test_rows_of_varied_lengths_make_small_micro_batches_faster_on_a_slow_card() -> None:
    """On one that waits for the host, padding costs nothing."""
    slow, fast = StepTimeModel(Speed(30e12, 300e9)), StepTimeModel(Speed(990e12, 4800e9))
    pins = PlanPins(gradient_checkpointing=False)
    rows = [*range(100, 400), 1024, 1024]

    def fastest(step_time: StepTimeModel, row_tokens: list[int]) -> int:
        found = plans(
            QWEN_3B,
            POINT,
            LINUX,
            pins,
            eval_cutoff_len=1024,
            step_time=step_time,
            row_tokens=row_tokens,
        )
        return found[0].plan.per_device_train_batch_size

    assert fastest(slow, rows) < 16
    assert fastest(fast, rows) == 16
    assert fastest(slow, [1024]) == 16


def test_kind_that_is_slow_on_this_device_is_no_longer_the_fastest() -> None:
    speed = Speed(300e12, 2e12)
    pins = PlanPins(per_device_train_batch_size=4)

    def fastest(step_time: StepTimeModel) -> bool:
        found = plans(QWEN_3B, POINT, LINUX, pins, eval_cutoff_len=1024, step_time=step_time)
        return found[0].plan.gradient_checkpointing

    assert not fastest(StepTimeModel(speed))
    assert fastest(StepTimeModel(speed, kind_factors={(False, False): 2.0}))


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("eval_cutoff_len", [256, 1024, 4096])
def test_evaluation_is_the_peak_only_where_one_row_is(fused: bool, eval_cutoff_len: int) -> None:
    pins = PlanPins(enable_liger_kernel=fused)
    found = plans(QWEN_3B, POINT, LINUX, pins, eval_cutoff_len=eval_cutoff_len)
    for candidate in found:
        rows = candidate.plan.per_device_eval_batch_size
        assert candidate.estimate.moment != "evaluation" or rows == 1
    assert max(c.plan.per_device_eval_batch_size for c in found) > 1


def test_fused_loss_in_training_leaves_the_logits_of_an_evaluation() -> None:
    pins = PlanPins(
        enable_liger_kernel=True,
        gradient_checkpointing=True,
        per_device_train_batch_size=1,
        per_device_eval_batch_size=8,
    )
    (planned,) = plans(QWEN_3B, POINT, LINUX, pins, eval_cutoff_len=1024)
    assert planned.plan.per_device_eval_batch_size == 8
    assert planned.estimate.moment == "evaluation"


def test_evaluation_at_the_trials_own_longer_cutoff_is_accounted_for() -> None:
    pins = PlanPins(per_device_eval_batch_size=1)
    workload = plans(QWEN_3B, POINT, LINUX, pins, eval_cutoff_len=256)[0].estimate.workload
    assert workload.eval_tokens == POINT.cutoff_len


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """Packages that can be imported."""
    found = {"liger_kernel", "triton"}
    monkeypatch.setattr(planner, "find_spec", lambda name: object() if name in found else None)
    yield found


@pytest.mark.parametrize("missing", ["liger_kernel", "triton"])
def test_liger_is_available_where_it_is_installed_and_knows_the_model(
    installed: set[str], missing: str
) -> None:
    assert liger_available(QWEN_3B)
    assert not liger_available(GRANITE), "liger leaves its loss as it is"
    installed.remove(missing)
    assert not liger_available(QWEN_3B)


def test_liger_is_used_for_a_traced_model_if_its_trace_needs_less_with_it(
    installed: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gemma = read_shape(shipped("configs", "models", "gemma-4-e2b", "config.json"))
    assert gemma.not_modelled
    fused_bytes = [5]

    def traced(workload: Workload) -> Any:
        is_fused = workload.fused_linear_cross_entropy
        return SimpleNamespace(is_traced=True, allocated_bytes=fused_bytes[0] if is_fused else 7)

    monkeypatch.setattr(planner, "predict", traced)
    assert liger_available(gemma)
    fused_bytes[0] = 8
    assert not liger_available(gemma)
    installed.remove("triton")
    assert not liger_available(gemma)


def test_liger_is_decided_once_and_kept_while_it_can_be(installed: set[str]) -> None:
    def decided(earlier: bool | None = None, has_gpu: bool = True) -> bool | None:
        pins = decide_liger(PlanPins(), QWEN_3B, has_gpu=has_gpu, earlier=earlier)
        return pins.enable_liger_kernel

    assert decided() is True
    assert decided(has_gpu=False) is False
    assert decided(earlier=True) is True
    assert decided(earlier=False) is False
    installed.clear()
    assert decided(earlier=True) is False


@pytest.mark.parametrize("pinned", [False, True])
def test_pinned_liger_stays_as_it_is_pinned(installed: set[str], pinned: bool) -> None:
    pins = PlanPins(enable_liger_kernel=pinned)
    assert decide_liger(pins, GRANITE, has_gpu=False, earlier=not pinned) == pins


def budget_of(share: float, found: list[PlannedTrial]) -> int:
    return 1 + round(share * max(candidate.estimate.required_bytes for candidate in found))


@given(
    shape=st.from_type(ModelShape),
    point=st.from_type(Hyperparameters),
    card=st.from_type(Card),
    pins=st.from_type(PlanPins),
    eval_cutoff_len=st.integers(16, 8192),
)
def test_candidate_carries_the_estimate_of_its_plan(
    shape: ModelShape,
    point: Hyperparameters,
    card: Card,
    pins: PlanPins,
    eval_cutoff_len: int,
) -> None:
    found = plans(shape, point, card, pins, eval_cutoff_len=eval_cutoff_len)
    for candidate in (found[0], found[-1]):
        workload = workload_of(shape, point, candidate.plan, eval_cutoff_len)
        assert candidate.estimate == predict(workload, Hardware.of(card))


@given(found=candidates(), share=SHARES, margin=MARGINS)
def test_chosen_plan_fits_and_none_that_fits_is_faster(
    found: list[PlannedTrial], share: float, margin: float
) -> None:
    budget = budget_of(share, found)
    chosen = choose_plan(found, budget, margin)
    fitting = [c for c in found if c.estimate.required_bytes * (1 + margin) <= budget]
    if chosen is None:
        assert fitting == []
        return
    assert chosen in fitting
    assert chosen.excess(budget, margin) <= 0
    assert chosen.step_seconds == min(c.step_seconds for c in fitting)


@given(found=candidates(), shares=st.lists(SHARES, min_size=2, max_size=6), margin=MARGINS)
def test_larger_budget_never_gives_a_slower_plan(
    found: list[PlannedTrial], shares: list[float], margin: float
) -> None:
    costs = [
        math.inf if chosen is None else chosen.step_seconds
        for chosen in (
            choose_plan(found, budget_of(share, found), margin) for share in sorted(shares)
        )
    ]
    assert costs == sorted(costs, reverse=True)


def test_bytes_are_those_of_the_longest_rows_where_no_row_reaches_the_cutoff() -> None:
    def found(cutoff_len: int, longest: Longest | None) -> list[PlannedTrial]:
        point = POINT.model_copy(update={"cutoff_len": cutoff_len})
        return plans(QWEN_3B, point, LINUX, PlanPins(), eval_cutoff_len=cutoff_len, longest=longest)

    short = Longest(train=300, eval=200)
    assert found(2048, short) == found(65536, short)
    assert found(256, Longest(300, 300)) == found(256, None)
    workload = found(2048, short)[0].estimate.workload
    assert (workload.cutoff_len, workload.eval_cutoff_len) == (300, 200)
    roomy = choose_plan(found(2048, short), 12 * GIB, margin=0.01)
    assert roomy is not None
    assert not roomy.plan.gradient_checkpointing
    careful = choose_plan(found(2048, None), 12 * GIB, margin=0.01)
    assert careful is not None
    assert careful.step_seconds > roomy.step_seconds


def test_sequences_of_joined_rows_are_full_and_have_a_mask() -> None:
    def found(micro_batch: int, **changes: Any) -> PlannedTrial:
        pins = PlanPins(per_device_train_batch_size=micro_batch, gradient_checkpointing=True)
        point = POINT.model_copy(update={"cutoff_len": 1024, "batch_size": 4, **changes})
        (plan,) = plans(
            QWEN_3B, point, LINUX, pins, eval_cutoff_len=1024, longest=Longest(300, 200),
            row_tokens=[300] * 20,
        )  # fmt: skip
        return plan

    plain, packed = found(4), found(4, packing=True)
    assert plain.estimate.workload.cutoff_len == 300
    assert packed.estimate.workload.cutoff_len == 1024
    assert packed.estimate.allocated_bytes > plain.estimate.allocated_bytes
    assert packed.step_seconds > plain.step_seconds
    full = replace(packed.estimate.workload, packed=False)
    whole = predict(full, hardware_for(LINUX))
    assert whole.allocated_bytes == packed.estimate.allocated_bytes
    alone = found(1, packing=True).estimate
    unmasked = predict(replace(alone.workload, packed=False), hardware_for(LINUX))
    assert alone.allocated_bytes > unmasked.allocated_bytes, "even one sequence has a mask"


@pytest.mark.parametrize(
    ("shortest", "cutoff_len", "are_equal"),
    [
        ((300, 200), 128, True),
        ((300, 200), 256, False),
        ((100, 200), 128, False),
        ((0, 0), 8, False),
    ],
)
def test_rows_that_the_cutoff_makes_equal_are_planned_without_padding(
    shortest: tuple[int, int], cutoff_len: int, are_equal: bool
) -> None:
    point = POINT.model_copy(update={"cutoff_len": cutoff_len})
    rows = Longest(400, 400, *shortest)
    found = plans(QWEN_3B, point, LINUX, PlanPins(), eval_cutoff_len=cutoff_len, longest=rows)
    assert {one.estimate.workload.equal_lengths for one in found} == {are_equal}


def test_nothing_is_chosen_where_nothing_fits() -> None:
    found = plans(QWEN_3B, POINT, LINUX, PlanPins(), eval_cutoff_len=1024)
    assert choose_plan(found, 1 * GIB, margin=0) is None
    assert choose_plan([], 100 * GIB, margin=0) is None


@given(found=candidates())
def test_smallest_plan_is_the_last_to_fit(found: list[PlannedTrial]) -> None:
    least = smallest(found)
    needed = least.estimate.required_bytes
    assert needed == min(c.estimate.required_bytes for c in found)
    assert choose_plan(found, needed, margin=0) is not None
    assert choose_plan(found, needed - 1, margin=0) is None
    assert least.excess(needed, margin=0) == 0


def test_larger_margin_asks_for_more_room() -> None:
    (found,) = plans(
        QWEN_3B,
        POINT,
        LINUX,
        PlanPins(per_device_train_batch_size=1, gradient_checkpointing=True),
        eval_cutoff_len=1024,
    )
    budget = found.estimate.required_bytes * 2
    assert found.fits(budget, margin=0.99)
    assert not found.fits(budget, margin=1.01)
    assert found.excess(budget, margin=1.5) == pytest.approx(0.25)


def test_roomy_card_needs_no_checkpointing_and_tight_card_gets_it() -> None:
    found = plans(QWEN_3B, POINT, LINUX, PlanPins(), eval_cutoff_len=1024)
    roomy, tight = (choose_plan(found, size * GIB, margin=0.01) for size in (140, 6))
    assert roomy is not None
    assert tight is not None
    assert roomy.plan.label == "micro-batch 16 x 1"
    assert tight.plan.gradient_checkpointing
    assert tight.plan.per_device_train_batch_size < 16


def test_settled_plan_fits_by_the_replayed_bytes_and_a_smaller_one_follows_an_out_of_memory() -> (
    None
):
    found = plans(QWEN_3B, POINT, WINDOWS, PlanPins(), eval_cutoff_len=1024)
    settled = settle_plan(found, 14 * GIB, margin=0.01)
    assert settled is not None
    replayed = settled.estimate.required_bytes
    assert replayed == settled.estimate.with_replay().required_bytes
    assert replayed * 1.01 <= 14 * GIB
    smaller = next_smaller(found, replayed, 14 * GIB, margin=0.01)
    assert smaller is not None
    assert smaller.plan != settled.plan
    assert smaller.estimate == smaller.estimate.with_replay()
    assert smaller.estimate.required_bytes <= planner.SMALLER * replayed


def test_replay_of_a_loss_without_logits_requests_none() -> None:
    (plan,) = plans(
        QWEN_3B,
        POINT,
        WINDOWS,
        PlanPins(per_device_train_batch_size=16, gradient_checkpointing=True),
        eval_cutoff_len=1024,
    )
    workload = replace(plan.estimate.workload, objective="trl reward", per_device_eval_batch_size=1)
    estimate = predict(workload).with_replay()
    logits = 2 * workload.shape.vocab_size * workload.tokens
    assert estimate.required_bytes - estimate.allocated_bytes < logits / 2


def test_expandable_segments_are_used_on_linux_only_unless_pinned() -> None:
    def used(card: Card, pinned: bool | None = None) -> set[bool]:
        pins = PlanPins(expandable_segments=pinned)
        found = plans(QWEN_3B, POINT, card, pins, eval_cutoff_len=1024)
        return {candidate.plan.expandable_segments for candidate in found}

    assert used(LINUX) == {True}
    assert used(WINDOWS) == {False}
    assert used(LINUX, pinned=False) == {False}


def test_card_too_small_for_the_base_is_refused_with_both_figures() -> None:
    card = Card(name="tiny", title="Tiny Card", total_bytes=GIB, reserve_bytes=100 * MIB)
    with pytest.raises(InputError, match="Tiny Card is too small") as caught:
        check_card_holds_base(QWEN_3B, card)
    sizes = re.findall(r"[0-9.]+ [MG]iB", caught.value.message)
    assert sizes == [format_bytes(estimate_base_bytes(QWEN_3B) + WORKSPACES), "924 MiB"]
    assert "larger card" in caught.value.remedy


@given(
    shape=st.from_type(ModelShape),
    reserve_bytes=st.integers(0, 2 * GIB),
    context_bytes=st.integers(0, GIB),
)
def test_card_is_refused_from_one_byte_too_few_beside_reserve_and_context(
    shape: ModelShape, reserve_bytes: int, context_bytes: int
) -> None:
    enough = Card(
        name="drawn",
        total_bytes=estimate_base_bytes(shape) + WORKSPACES + reserve_bytes + context_bytes,
        reserve_bytes=reserve_bytes,
        context_bytes=context_bytes,
    )
    check_card_holds_base(shape, enough)
    with pytest.raises(InputError):
        check_card_holds_base(
            shape, enough.model_copy(update={"total_bytes": enough.total_bytes - 1})
        )


def test_every_shipped_card_holds_a_three_billion_model() -> None:
    for slug in card_names():
        check_card_holds_base(QWEN_3B, Card.model_validate(load_card(slug)))
