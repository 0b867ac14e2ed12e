"""A prediction's parts: they add up, and each hyperparameter moves the part it should."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.factories import make_point
from vram_search.estimate import Estimate, estimate_base_bytes, predict, workload_of
from vram_search.estimate.memory.hardware import Hardware
from vram_search.estimate.memory.peaks import fused_chunk_bytes
from vram_search.resources import shipped
from vram_search.spec import Card, Hyperparameters, MemoryPlan, ModelShape, load_shape
from vram_search.spec.optimizers import OPTIMIZERS
from vram_search.spec.plan import EVAL_LOSS_TOKENS
from vram_search.units import GIB, KIB, MIB

QWEN = load_shape(shipped("configs", "models", "qwen2.5-0.5b"))
CARD = Card(name="x", total_bytes=16 * GIB, context_bytes=500)
SHAPES = [
    "gemma-2-9b",
    "gemma-3-1b",
    "granite-3.3-2b",
    "llama-2-7b",
    "olmo-2-1b",
    "phi-4",
    "qwen3-4b",
]
"""A shipped shape of each family that differs in norms, biases, embeddings or projections."""
POINT = make_point(lora_target="qv", lora_rank=8, batch_size=4)
PLAN = MemoryPlan(
    per_device_train_batch_size=2,
    gradient_accumulation_steps=2,
    gradient_checkpointing=True,
    expandable_segments=True,
)


def estimate(
    shape: ModelShape,
    point: Hyperparameters,
    plan: MemoryPlan,
    card: Card,
    *,
    eval_cutoff_len: int | None = None,
    equal_lengths: bool = False,
    upcast: bool = False,
) -> Estimate:
    """Of a trial; without `eval_cutoff_len`, of its training alone."""
    workload = replace(
        workload_of(shape, point, plan, eval_cutoff_len or 1),
        equal_lengths=equal_lengths,
        prepare_for_kbit_training=upcast,
    )
    if eval_cutoff_len is None:
        workload = replace(workload, per_device_eval_batch_size=0, eval_cutoff_len=0)
    return predict(workload, Hardware.of(card))


def changed(**changes: object) -> MemoryPlan:
    return PLAN.model_copy(update=changes)


@given(
    shape=st.from_type(ModelShape),
    point=st.from_type(Hyperparameters),
    plan=st.from_type(MemoryPlan),
    card=st.from_type(Card),
    eval_cutoff_len=st.none() | st.integers(16, 8192),
    equal_lengths=st.booleans(),
    upcast=st.booleans(),
)
def test_parts_add_up_to_the_bytes_of_the_process(
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
    assert sum(found.parts.values()) == found.process_bytes
    assert sum(found.allocated_parts.values()) == found.allocated_bytes
    assert all(type(size) is int and size > 0 for size in found.parts.values()), found.parts
    assert found.allocated_bytes <= found.required_bytes
    assert found.allocated_bytes <= found.reserved_bytes
    assert found.process_bytes - found.reserved_bytes == card.context_bytes
    assert found.trainable_parameters == shape.lora_parameters(point.lora_target, point.lora_rank)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize(("expandable", "share"), [(False, 0.03), (True, 0.003)])
def test_allocator_adds_little_to_the_weights_of_a_shipped_model(
    name: str, expandable: bool, share: float
) -> None:
    shape = load_shape(shipped("configs", "models", name))
    plan = changed(expandable_segments=expandable)
    parts = estimate(shape, POINT.model_copy(update={"lora_target": "all"}), plan, CARD).parts
    assert parts["base_weights"] == pytest.approx(estimate_base_bytes(shape), rel=share)


@given(
    shape=st.from_type(ModelShape),
    point=st.from_type(Hyperparameters),
    plan=st.from_type(MemoryPlan),
    eval_cutoff_len=st.integers(16, 8192),
)
def test_evaluation_never_lowers_the_peak(
    shape: ModelShape, point: Hyperparameters, plan: MemoryPlan, eval_cutoff_len: int
) -> None:
    alone = estimate(shape, point, plan, CARD).allocated_bytes
    evaluated = estimate(shape, point, plan, CARD, eval_cutoff_len=eval_cutoff_len)
    assert evaluated.allocated_bytes >= alone


@given(
    shape=st.from_type(ModelShape),
    point=st.from_type(Hyperparameters),
    plan=st.from_type(MemoryPlan),
    name=st.sampled_from(["lora_rank", "cutoff_len"]),
)
def test_more_rank_or_longer_texts_never_need_less(
    shape: ModelShape, point: Hyperparameters, plan: MemoryPlan, name: str
) -> None:
    states = OPTIMIZERS[point.optim]
    # The states of a small matrix are in fp32 and never paged, whatever the optimizer.
    assume(name != "lora_rank" or not (states.eight_bit or states.paged))
    more = point.model_copy(update={name: getattr(point, name) + 1})
    fewer_bytes = estimate(shape, point, plan, CARD).allocated_bytes
    assert estimate(shape, more, plan, CARD).allocated_bytes >= fewer_bytes


@given(
    shape=st.from_type(ModelShape),
    point=st.from_type(Hyperparameters),
    plan=st.from_type(MemoryPlan),
)
def test_larger_micro_batch_never_needs_less(
    shape: ModelShape, point: Hyperparameters, plan: MemoryPlan
) -> None:
    larger = plan.model_copy(
        update={"per_device_train_batch_size": plan.per_device_train_batch_size + 1}
    )
    fewer_bytes = estimate(shape, point, plan, CARD).allocated_bytes
    assert estimate(shape, point, larger, CARD).allocated_bytes >= fewer_bytes


@given(shape=st.from_type(ModelShape), point=st.from_type(Hyperparameters))
def test_checkpointing_of_many_layers_and_tokens_never_needs_more(
    shape: ModelShape, point: Hyperparameters
) -> None:
    assume(shape.num_hidden_layers >= 8)
    rows = -(-16384 // point.cutoff_len)
    plain = changed(per_device_train_batch_size=rows, gradient_checkpointing=False)
    kept = estimate(shape, point, plain, CARD).allocated_bytes
    checkpointed = plain.model_copy(update={"gradient_checkpointing": True})
    assert estimate(shape, point, checkpointed, CARD).allocated_bytes <= kept


def test_small_qwen_is_counted_by_hand() -> None:
    """Qwen2.5 0.5B, 2 x 512 tokens, checkpointed: the figures of its config.json."""
    parts = estimate(QWEN, POINT, PLAN, CARD).parts
    trainable = 24 * 8 * ((896 + 896) + (896 + 128))
    assert parts["adapter"] == parts["gradients"] == 4 * trainable
    large, small = 8 * 896 + 512, 4 * 8 * 128  # 8-bit with a block of scales; fp32 below 4,096
    assert parts["optimizer"] == 24 * 2 * (3 * large + small) + 2 * KIB
    hidden_states = 24 * 896 * 2 * 1024  # what each checkpointed layer starts from
    final_norm = 896 * 4 * 1024
    tables_and_ids = 2 * 512 * 64 * 2 + (5 * 8 + 4) * 1024
    mask = 2 * 512 * 512
    assert parts["saved_activations"] == hidden_states + final_norm + tables_and_ids + mask
    assert parts["logits"] == 12 * 151936 * 1024
    assert parts["workspaces"] == 2 * 8320 * KIB + 2 * MIB, "cuBLAS, and cuBLASLt for the biases"


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_large_states_are_on_the_card_unless_paged(name: str) -> None:
    """bitsandbytes pages tensors from 100,000 elements on: A at rank 256 has 229,376."""

    def states(rank: int, optim: str) -> int:
        point = POINT.model_copy(update={"optim": optim, "lora_rank": rank})
        return estimate(QWEN, point, PLAN, CARD).parts.get("optimizer", 0)

    resident = {
        "paged_adamw_32bit": "adamw_torch",
        "paged_ademamix_32bit": "ademamix",
    }.get(name, name.removeprefix("paged_"))
    assert states(8, name) == states(8, resident)
    assert (2 * states(256, name) < states(256, resident)) is name.startswith("paged_")


def test_foreach_copies_can_be_the_peak() -> None:
    """A large rank and short texts: AdamW's square roots of all second moments exist at once."""
    short = POINT.model_copy(update={"lora_rank": 256, "cutoff_len": 16, "optim": "adamw_torch"})
    fused = short.model_copy(update={"optim": "adamw_torch_fused"})
    peak = estimate(QWEN, short, PLAN, CARD)
    assert peak.moment == "optimizer step"
    assert peak.parts["temporaries"] == peak.parts["adapter"] == peak.parts["gradients"]
    assert estimate(QWEN, fused, PLAN, CARD).allocated_bytes < peak.allocated_bytes


def test_eight_bit_states_take_a_quarter_and_their_scales() -> None:
    def states(optim: str) -> int:
        point = POINT.model_copy(update={"optim": optim, "lora_rank": 64})
        return estimate(QWEN, point, PLAN, CARD).parts["optimizer"]

    assert states("adamw_torch") == 2 * states("lion_32bit")
    assert states("adamw_8bit") == 2 * states("lion_8bit")
    assert states("adamw_8bit") / states("adamw_torch") == pytest.approx(0.25 * 1.016, rel=0.01)


def test_gradients_are_counted_while_they_are_accumulated() -> None:
    single = changed(gradient_accumulation_steps=1)
    assert "gradients" not in estimate(QWEN, POINT, single, CARD).parts
    assert estimate(QWEN, POINT, PLAN, CARD).parts["gradients"] > 0


def test_long_evaluation_sets_the_peak_in_place_of_training() -> None:
    found = estimate(QWEN, POINT, PLAN, CARD, eval_cutoff_len=8192)
    assert found.moment == "evaluation"
    assert found.parts["evaluation_logits"] == (2 * 8192 + 8 * EVAL_LOSS_TOKENS) * 151936
    assert "logits" not in found.parts
    assert estimate(QWEN, POINT, PLAN, CARD).moment == "loss"


@pytest.mark.parametrize("name", SHAPES)
def test_upcast_of_a_shipped_model_adds_two_bytes_a_parameter_that_is_not_quantised(
    name: str,
) -> None:
    shape = load_shape(shipped("configs", "models", name))
    point = POINT.model_copy(update={"lora_target": "all"})
    plain = estimate(shape, point, PLAN, CARD)
    upcast = estimate(shape, point, PLAN, CARD, upcast=True)
    kept = shape.parameters - shape.linear_parameters
    assert "upcasts" not in plain.parts
    assert upcast.parts["upcasts"] == pytest.approx(2 * kept, rel=0.01)
    assert upcast.allocated_bytes - plain.allocated_bytes > upcast.parts["upcasts"]


def test_checkpointing_and_fused_loss_save_bytes() -> None:
    plain = estimate(QWEN, POINT, PLAN, CARD).allocated_bytes
    fused, kept = changed(enable_liger_kernel=True), changed(gradient_checkpointing=False)
    assert estimate(QWEN, POINT, fused, CARD).allocated_bytes < plain
    assert estimate(QWEN, POINT, kept, CARD).allocated_bytes > plain


def test_fused_loss_moves_the_peak_away_from_the_logits() -> None:
    found = estimate(QWEN, POINT, changed(enable_liger_kernel=True), CARD)
    assert found.moment == "layer backward"
    assert "logits" not in found.parts


def test_limit_above_the_peak_is_smallest_with_expandable_segments() -> None:
    fixed = changed(expandable_segments=False)
    expandable = estimate(QWEN, POINT, PLAN, CARD)
    equal = estimate(QWEN, POINT, fixed, CARD, equal_lengths=True)
    varied = estimate(QWEN, POINT, fixed, CARD)
    assert expandable.required_bytes == pytest.approx(1.02 * expandable.allocated_bytes)
    assert expandable.required_bytes < min(equal.required_bytes, varied.required_bytes)
    assert varied.required_bytes >= 1.10 * varied.allocated_bytes - 1


def test_modules_that_the_model_lacks_are_a_value_error() -> None:
    with pytest.raises(ValueError, match="has no qkv_proj"):
        estimate(QWEN, POINT.model_copy(update={"lora_target": "qkv_proj"}), PLAN, CARD)


def test_record_of_an_estimate_holds_its_bytes() -> None:
    found = estimate(QWEN, POINT, PLAN, CARD)
    assert found.as_dict() == {
        "allocated_bytes": found.allocated_bytes,
        "reserved_bytes": found.reserved_bytes,
        "required_bytes": found.required_bytes,
        "process_bytes": found.reserved_bytes + 500,
        "moment": "loss",
        "parts": found.parts,
    }


def test_the_logits_of_dpo_count_for_both_texts_and_both_models() -> None:
    sft = replace(estimate(QWEN, POINT, PLAN, CARD).workload, cutoff_len=1024)
    dpo = replace(sft, objective="llamafactory dpo")
    assert dpo.tokens == 2 * sft.tokens
    assert predict(dpo).parts["logits"] == 20 * QWEN.vocab_size * dpo.tokens


def test_tiled_logits_of_dpo_do_not_grow_with_the_texts() -> None:
    dpo = replace(estimate(QWEN, POINT, PLAN, CARD).workload, objective="trl dpo in chunks")
    longer = replace(dpo, cutoff_len=2048)
    assert longer.tokens > dpo.tokens
    assert fused_chunk_bytes(longer) == fused_chunk_bytes(replace(longer, cutoff_len=4096))


def test_an_adapter_in_16_bits_halves_its_bytes_and_needs_no_copies() -> None:
    wide = estimate(QWEN, POINT, PLAN, CARD).workload
    narrow = replace(wide, adapter_element_bytes=2)
    assert predict(narrow).parts["adapter"] == predict(wide).parts["adapter"] / 2
    assert "adapter_copies" not in predict(narrow).parts
