"""A base model that is loaded in another form than predicted: one message, and plans for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.factories import FakeTrainer, make_point, make_ready
from vram_search.errors import InputError
from vram_search.estimate.memory.predict import estimate_base_bytes
from vram_search.spec.model_tree import LinearGroup, ModelTree, TensorGroup
from vram_search.spec.shape import ModelShape
from vram_search.worker.context import RunContext
from vram_search.worker.load_base import load_base

MakeContext = Callable[..., RunContext]


def tree_in_16_bits(shape: ModelShape, times: int = 1) -> dict[str, Any]:
    """The tree of a shape whose linear layers were not quantised, as JSON.

    Args:
        times: so many times the layers' width.
    """
    linears: tuple[LinearGroup, ...] = tuple(
        replace(
            group, storage="16-bit", class_name="Linear", out_features=times * group.out_features
        )
        for group in shape.linear_groups
    )
    embedding = TensorGroup(
        "model.embed_tokens.weight", ((),), (shape.vocab_size, shape.hidden_size), 2, "text"
    )
    tree = ModelTree(
        model_type=shape.model_type,
        text_model_type=shape.model_type,
        class_name="LlamaForCausalLM",
        auto_class="AutoModelForCausalLM",
        tied=True,
        num_hidden_layers=shape.num_hidden_layers,
        layers_pattern="model.layers.{}",
        layer_types=(),
        linears=linears,
        tensors=(embedding,),
        transformers_version="5",
        config="{}",
        filled_config="{}",
    )
    return tree.to_json()


def test_difference_is_noted_once_and_the_plans_are_made_for_what_was_loaded(
    make_context: MakeContext,
) -> None:
    context = make_context(FakeTrainer([], make_ready()))
    shape = context.prepared.shape
    before = context.candidates(make_point())[0].estimate
    context.trainer = FakeTrainer([], make_ready(tree=tree_in_16_bits(shape)))  # type: ignore[assignment]
    load_base(context)
    notes = [note for note in context.listener.notes if "not the predicted" in note]  # type: ignore[attr-defined]
    assert len(notes) == 1
    assert "0 parameters are in NF4, not 106,168,320" in notes[0]
    after = context.candidates(make_point())[0].estimate
    missing = estimate_base_bytes(context.prepared.shape) - estimate_base_bytes(shape)
    assert missing == pytest.approx(1.484 * 106_168_320, rel=0.01)
    assert after.required_bytes - before.required_bytes > 0.9 * missing


def test_base_that_the_card_cannot_hold_as_loaded_is_refused_before_any_trial(
    make_context: MakeContext,
) -> None:
    context = make_context(FakeTrainer([], make_ready()))
    tree = tree_in_16_bits(context.prepared.shape, times=60)
    context.trainer = FakeTrainer([], make_ready(tree=tree))  # type: ignore[assignment]
    with pytest.raises(InputError, match=r"too small for this base model: its weights alone take"):
        load_base(context)


def test_base_that_is_loaded_as_predicted_changes_nothing(make_context: MakeContext) -> None:
    context = make_context(FakeTrainer([], make_ready()))
    prepared = context.prepared
    load_base(context)
    assert context.prepared is prepared


def test_model_that_liger_refuses_is_planned_again_without_it_and_the_note_says_why(
    make_context: MakeContext,
) -> None:
    trainer = FakeTrainer([], make_ready())
    trainer.refused_liger = "a training step of LlamaForCausalLM with liger-kernel fails: no kernel"
    context = make_context(trainer)
    context.pins = context.pins.model_copy(update={"enable_liger_kernel": True})
    assert context.fits(make_point())
    assert all(plan.plan.enable_liger_kernel for plan in context.candidates(make_point()))
    load_base(context)
    assert context.planned == {}
    assert not any(plan.plan.enable_liger_kernel for plan in context.candidates(make_point()))
    notes = context.listener.notes  # type: ignore[attr-defined]
    assert any("with liger-kernel fails: no kernel; the model trains without" in n for n in notes)
