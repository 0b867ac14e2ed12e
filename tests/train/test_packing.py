"""Joined rows train as the rows alone do: the same losses, the same gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from tests.factories import make_point
from vram_search.protocol import TrialJob
from vram_search.spec.families import MODELLED
from vram_search.train import model as base_model
from vram_search.train.device import compute_dtype
from vram_search.train.examples import IGNORED, TokenRow, collate, joined, training_rows
from vram_search.train.probe import worst_case_batches
from vram_search.train.run import EncodedDataset, Trial
from vram_search.train.trainer import make_trainer

MakeJob = Callable[..., TrialJob]
SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "sliding_window": 5,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def random_row(size: int) -> TokenRow:
    ids = torch.randint(3, 60, (size,)).tolist()
    return TokenRow(tuple(ids), (IGNORED, IGNORED, *ids[2:]))


@pytest.mark.parametrize("model_type", MODELLED)
def test_joined_rows_do_not_see_each_other_in_any_family_that_packs(model_type: str) -> None:
    if model_type not in CONFIG_MAPPING:
        pytest.skip(f"this transformers does not have {model_type} yet")
    torch.manual_seed(0)
    config = CONFIG_MAPPING[model_type](**SIZES)
    config.use_cache = False
    model = AutoModelForCausalLM.from_config(config).eval()
    rows = [random_row(size) for size in (7, 11, 6)]
    packed = collate([joined(rows), joined(rows[:2])], pad_token_id=0)
    with torch.no_grad():
        alone = [model(input_ids=torch.tensor([row.input_ids])).logits[0] for row in rows]
        together = model(input_ids=packed["input_ids"], position_ids=packed["position_ids"]).logits
    scale = float(torch.cat(alone).abs().max())
    torch.testing.assert_close(together[0], torch.cat(alone), atol=1e-5 * scale, rtol=0)
    torch.testing.assert_close(together[1, :18], torch.cat(alone[:2]), atol=1e-5 * scale, rtol=0)


def one_step(base: Any, job: TrialJob, rows: list[TokenRow]) -> tuple[float, torch.Tensor]:
    """Loss and gradient of one optimizer step on these rows."""
    model = base_model.attach_adapter(base, job)
    try:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.fill_(0.01)
        trainer = make_trainer(
            model, job, job.plan, rows, steps=1, horizon=1, pad_token_id=0, callbacks=[],
            order="sequential",
        )  # fmt: skip
        trainer.create_optimizer_and_scheduler(1)
        loader = iter(trainer.get_train_dataloader())
        accumulation = job.plan.gradient_accumulation_steps
        batches, tokens = trainer.get_batch_samples(loader, accumulation, trainer.args.device)
        trainer.current_gradient_accumulation_steps = len(batches)
        loss = sum(float(trainer.training_step(model, batch, tokens)) for batch in batches)
        found = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        return loss, torch.cat(found)
    finally:
        base_model.detach_adapter(model)


def test_loss_and_gradient_of_joined_rows_equal_those_of_the_rows(
    base: Any, make_job: MakeJob
) -> None:
    rows = [random_row(size) for size in (20, 30, 14, 25)]
    point = make_point(
        optim="adamw_torch_fused", lora_target="all", lora_rank=4, cutoff_len=96, batch_size=4
    )
    job = make_job(hyperparameters=point)
    plan = job.plan.model_copy(
        update={"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1}
    )
    job = job.model_copy(update={"plan": plan})
    loss, gradient = one_step(base, job, rows)
    packed_loss, packed = one_step(base, job, [joined(rows[:3]), joined(rows[3:])])
    assert packed_loss == pytest.approx(loss, rel=1e-5)
    rounding = 1e-2 if compute_dtype() == torch.bfloat16 else 1e-4
    assert float((packed - gradient).norm()) < rounding * float(gradient.norm())


def test_first_token_of_a_row_is_not_predicted_from_the_row_before() -> None:
    text = TokenRow((5, 6, 7), (5, 6, 7))
    assert joined([text, text]).labels == (IGNORED, 6, 7, IGNORED, 6, 7)
    assert joined([text, text]).position_ids == (0, 1, 2, 0, 1, 2)


def test_a_packing_trial_makes_a_step_for_each_batch_of_sequences(
    base: Any, encoded: EncodedDataset, make_job: MakeJob
) -> None:
    point = make_point(
        optim="adamw_torch_fused", lora_rank=4, cutoff_len=256, batch_size=2, packing=True
    )
    plain = Trial(base, encoded, make_job(hyperparameters=point), lambda _: None, lambda: False)
    sequences = training_rows(encoded.train, point)
    assert plain.train_rows == sequences and len(sequences) < len(encoded.train)
    finished = plain.run()
    assert finished.outcome == "complete", finished.message


def test_the_probe_meets_a_sequence_of_several_rows() -> None:
    """Only such a sequence has a mask, which takes bytes."""
    single, several = joined([random_row(30)]), joined([random_row(14), random_row(10)])
    assert worst_case_batches([single, several], 1) == [[single], [several]]
    assert worst_case_batches([several, single, joined([random_row(15)] * 2)], 1)[0] != [single]
