"""The closed form itself: its parts add up, and each hyperparameter moves the part it should."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vram_search.estimate import estimate, estimate_base_bytes
from vram_search.resources import shipped
from vram_search.spec import Card, Hyperparameters, MemoryPlan, ModelShape, load_shape
from vram_search.spec.optimizers import OPTIMIZERS
from vram_search.units import GIB

QWEN = load_shape(shipped("configs", "models", "qwen2.5-0.5b"))
CARD = Card(name="x", total_bytes=16 * GIB, context_bytes=500)
POINT = Hyperparameters(
    optim="adamw_8bit",
    lora_target="qv",
    lora_rank=8,
    lora_alpha=16,
    cutoff_len=512,
    batch_size=4,
    learning_rate=1e-4,
)
PLAN = MemoryPlan(
    per_device_train_batch_size=2, gradient_accumulation_steps=2, gradient_checkpointing=True
)


@given(
    shape=st.from_type(ModelShape),
    point=st.from_type(Hyperparameters),
    plan=st.from_type(MemoryPlan),
    card=st.from_type(Card),
    eval_cutoff_len=st.none() | st.integers(16, 8192),
    equal_lengths=st.booleans(),
    upcast=st.booleans(),
)
def test_parts_add_up_to_the_allocated_bytes(
    shape: ModelShape,
    point: Hyperparameters,
    plan: MemoryPlan,
    card: Card,
    eval_cutoff_len: int | None,
    equal_lengths: bool,
    upcast: bool,
) -> None:
    found = estimate(
        shape,
        point,
        plan,
        card,
        eval_cutoff_len=eval_cutoff_len,
        equal_lengths=equal_lengths,
        upcast=upcast,
    )
    assert sum(found.parts.values()) == found.allocated_bytes
    assert all(type(size) is int and size >= 0 for size in found.parts.values())
    assert found.parts["base_weights"] == estimate_base_bytes(shape)
    assert found.allocated_bytes < found.required_bytes <= found.process_bytes
    assert found.process_bytes - found.required_bytes == card.context_bytes
    assert found.trainable_parameters == shape.lora_parameters(point.lora_target, point.lora_rank)


@given(
    shape=st.from_type(ModelShape),
    point=st.from_type(Hyperparameters),
    plan=st.from_type(MemoryPlan),
    eval_cutoff_len=st.integers(16, 8192),
)
def test_evaluation_and_upcast_never_lower_the_peak(
    shape: ModelShape, point: Hyperparameters, plan: MemoryPlan, eval_cutoff_len: int
) -> None:
    alone = estimate(shape, point, plan, CARD).allocated_bytes
    evaluated = estimate(shape, point, plan, CARD, eval_cutoff_len=eval_cutoff_len)
    assert evaluated.allocated_bytes >= alone
    assert estimate(shape, point, plan, CARD, upcast=True).allocated_bytes > alone


@given(
    shape=st.from_type(ModelShape),
    point=st.from_type(Hyperparameters),
    plan=st.from_type(MemoryPlan),
    name=st.sampled_from(["lora_rank", "cutoff_len"]),
)
def test_more_rank_or_longer_texts_never_need_less(
    shape: ModelShape, point: Hyperparameters, plan: MemoryPlan, name: str
) -> None:
    more = point.model_copy(update={name: getattr(point, name) + 1})
    fewer_bytes = estimate(shape, point, plan, CARD).allocated_bytes
    assert estimate(shape, more, plan, CARD).allocated_bytes >= fewer_bytes


def test_small_llama_is_counted_by_hand() -> None:
    """Qwen2.5 0.5B, 2 x 512 tokens, checkpointed: the figures of its config.json."""
    parts = estimate(QWEN, POINT, PLAN, CARD).parts
    trainable = 24 * 8 * ((896 + 896) + (896 + 128))
    assert parts["adapter"] == parts["gradients"] == 4 * trainable
    assert parts["optimizer"] == round(trainable * 2 * (1 + 4 / 256))
    assert parts["saved_activations"] == (24 + 1) * 896 * 2 * 1024
    assert parts["logits"] == 12 * 151936 * 1024


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_optimizer_states_are_on_the_card_unless_paged(name: str) -> None:
    states = estimate(QWEN, POINT.model_copy(update={"optim": name}), PLAN, CARD).parts["optimizer"]
    assert (states == 0) is name.startswith("paged_")


def test_gradients_are_counted_while_they_are_accumulated() -> None:
    single = PLAN.model_copy(update={"gradient_accumulation_steps": 1})
    assert estimate(QWEN, POINT, single, CARD).parts["gradients"] == 0
    assert estimate(QWEN, POINT, PLAN, CARD).parts["gradients"] > 0


def test_long_evaluation_sets_the_peak_in_place_of_training() -> None:
    parts = estimate(QWEN, POINT, PLAN, CARD, eval_cutoff_len=8192).parts
    assert parts["evaluation_logits"] == 10 * 151936 * 8192
    assert "logits" not in parts


def test_checkpointing_and_fused_loss_save_bytes() -> None:
    plain = estimate(QWEN, POINT, PLAN, CARD).allocated_bytes
    fused = PLAN.model_copy(update={"enable_liger_kernel": True})
    stored = PLAN.model_copy(update={"gradient_checkpointing": False})
    assert estimate(QWEN, POINT, fused, CARD).allocated_bytes < plain
    assert estimate(QWEN, POINT, stored, CARD).allocated_bytes > plain


def test_limit_above_the_peak_is_smallest_with_expandable_segments_then_equal_lengths() -> None:
    expandable = PLAN.model_copy(update={"expandable_segments": True})
    ratios = [
        found.required_bytes / found.allocated_bytes
        for found in (
            estimate(QWEN, POINT, expandable, CARD),
            estimate(QWEN, POINT, PLAN, CARD, equal_lengths=True),
            estimate(QWEN, POINT, PLAN, CARD),
        )
    ]
    assert ratios == pytest.approx([1.03, 1.06, 1.10])


def test_modules_that_the_model_lacks_are_a_value_error() -> None:
    with pytest.raises(ValueError, match="has no qkv_proj"):
        estimate(QWEN, POINT.model_copy(update={"lora_target": "qkv_proj"}), PLAN, CARD)


def test_record_of_an_estimate_holds_its_bytes() -> None:
    found = estimate(QWEN, POINT, PLAN, CARD)
    assert found.as_dict() == {
        "allocated_bytes": found.allocated_bytes,
        "required_bytes": found.required_bytes,
        "process_bytes": found.required_bytes + 500,
        "parts": found.parts,
    }
