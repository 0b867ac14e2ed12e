"""Training and evaluation of a tiny model in NF4 on the CPU, in this process."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bitsandbytes as bnb
import pytest
import torch

from vram_search.errors import VramSearchError
from vram_search.protocol import AnyEvent, Evaluated, Finished, LoadJob, TrialJob
from vram_search.spec.steps import count_steps
from vram_search.spec.study import TrainingSpec
from vram_search.train import device as training_device
from vram_search.train import evaluate as evaluation
from vram_search.train import model as base_model
from vram_search.train import run as run_module
from vram_search.train import trainer_run
from vram_search.train.device import compute_dtype
from vram_search.train.evaluate import evaluate
from vram_search.train.examples import collate, cut
from vram_search.train.faults import DivergedError
from vram_search.train.run import EncodedDataset, Trial
from vram_search.train.trainer import rung_steps, warmup_steps

MakeJob = Callable[..., TrialJob]


def run(
    base: Any, encoded: EncodedDataset, job: TrialJob, prune: bool = False
) -> tuple[Finished, list[AnyEvent]]:
    events: list[AnyEvent] = []
    return Trial(base, encoded, job, events.append, lambda: prune).run(), events


def weights(base: Any) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in base.named_parameters()}


def test_base_is_bit_identical_and_bare_after_a_trial(
    base: Any, encoded: EncodedDataset, make_job: MakeJob
) -> None:
    before = weights(base)
    finished, _ = run(base, encoded, make_job())
    after = weights(base)
    assert finished.outcome == "complete", finished.message
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert base_model.trainable_parameters(base) == 0


def test_training_lowers_the_loss_and_keeps_the_best_adapter(
    base: Any, encoded: EncodedDataset, make_job: MakeJob, tmp_path: Path
) -> None:
    finished, events = run(
        base, encoded, make_job(training=TrainingSpec(max_steps=12, rungs=(0.1,)))
    )
    early, late = [event for event in events if isinstance(event, Evaluated)]
    assert early.is_rung and not late.is_rung
    assert late.eval_loss is not None and early.eval_loss is not None
    assert late.eval_loss < early.eval_loss
    assert finished.best_step == 12
    assert {path.name for path in (tmp_path / "adapter").iterdir()} >= {
        "adapter_model.safetensors",
        "adapter_config.json",
    }
    assert not list(tmp_path.glob("adapter.*"))


def test_equal_seeds_give_equal_losses(
    base: Any, encoded: EncodedDataset, make_job: MakeJob
) -> None:
    _, first = run(base, encoded, make_job())
    _, second = run(base, encoded, make_job())
    losses = [
        [event.eval_loss for event in events if isinstance(event, Evaluated)]
        for events in (first, second)
    ]
    assert losses[0] == losses[1]


def test_pruned_trial_stops_at_its_rung(
    base: Any, encoded: EncodedDataset, make_job: MakeJob
) -> None:
    finished, _ = run(base, encoded, make_job(), prune=True)
    assert finished.outcome == "pruned"
    assert finished.step == 2 and finished.steps_total == 6


def test_phases_of_a_trial_that_diverges_after_a_rung_add_up_to_its_seconds(
    base: Any, encoded: EncodedDataset, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    readings = itertools.count()  # of a clock that goes on by a second when it is read
    monkeypatch.setattr(run_module, "time", SimpleNamespace(perf_counter=lambda: next(readings)))

    def diverge() -> bool:
        raise DivergedError("at the rung")

    finished = Trial(base, encoded, make_job(), lambda event: None, diverge).run()
    assert finished.outcome == "diverged"
    assert finished.seconds["eval"] > 0
    assert sum(finished.seconds.values()) <= next(readings) - 1


def test_eval_loss_is_the_models_own_loss_per_answer_token(
    base: Any, encoded: EncodedDataset
) -> None:
    rows = [cut(row, 128) for row in encoded.eval]
    losses = evaluate(base, rows, 3, encoded.tokenizer.pad_token_id)
    is_mixed = compute_dtype() == torch.bfloat16
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_mixed):
        for row, loss_sum in zip(rows, losses.sums, strict=True):
            alone = base(**collate([row], encoded.tokenizer.pad_token_id)).loss.item()
            assert loss_sum / row.answer_tokens == pytest.approx(alone, rel=0.01)
    assert losses.mean == pytest.approx(sum(losses.sums) / sum(losses.tokens))
    assert losses.bits_per_byte([10, 10, 10, 10]) == pytest.approx(
        sum(losses.sums) / math.log(2) / 40
    )


@pytest.mark.parametrize("has_bf16", [True, False])
def test_logits_of_an_evaluation_stay_in_the_compute_dtype_within_a_training(
    load_job: LoadJob,
    encoded: EncodedDataset,
    make_job: MakeJob,
    monkeypatch: pytest.MonkeyPatch,
    has_bf16: bool,
) -> None:
    """A model that a Trainer has prepared returns fp32 logits otherwise."""
    monkeypatch.setattr(training_device, "multiplies_bfloat16", lambda: has_bf16)
    base = base_model.load_base(load_job)
    seen: list[tuple[torch.dtype, bool]] = []
    summed_loss = evaluation._summed_loss

    def note(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        seen.append((logits.dtype, logits.requires_grad))
        return summed_loss(logits, labels)

    monkeypatch.setattr(evaluation, "_summed_loss", note)
    finished = Trial(base, encoded, make_job(), lambda event: None, lambda: False).run()
    assert finished.outcome == "complete"
    assert set(seen) == {(torch.bfloat16 if has_bf16 else torch.float32, False)}


def test_tools_that_are_verified_do_not_repack_weights_either(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: True)
    assert bnb.nn.Linear4bit(64, 64).support_avx512bf16_for_cpu
    trainer_run.keep_weights_as_quantised()
    assert not bnb.nn.Linear4bit(64, 64).support_avx512bf16_for_cpu


def test_the_peak_of_a_tool_that_resets_it_at_each_log_entry_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peaks = iter([1_500, 1_600, 568])
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.max_memory_allocated", lambda: next(peaks))
    writer = trainer_run.log_writer(tmp_path / "log.jsonl")
    for event in (writer.on_step_end, writer.on_prediction_step, writer.on_train_end):
        event(None, None, None)
    assert json.loads((tmp_path / "log.jsonl").read_text()) == {"allocated_bytes": 1_600}


def test_evaluation_leaves_quantised_weights_as_they_are_and_gradients_alive(
    base: Any, encoded: EncodedDataset, make_job: MakeJob
) -> None:
    """On CPUs with AVX512-BF16 bitsandbytes would repack them for inference."""
    layers = [module for module in base.modules() if hasattr(module, "support_avx512bf16_for_cpu")]
    assert layers and not any(layer.support_avx512bf16_for_cpu for layer in layers)
    before = weights(base)
    rows = [cut(row, 128) for row in encoded.eval]
    evaluate(base, rows, 2, encoded.tokenizer.pad_token_id)
    after = weights(base)
    assert all(torch.equal(before[name], after[name]) for name in before)
    model = base_model.attach_adapter(base, make_job())
    loss = model(**collate(rows[:1], encoded.tokenizer.pad_token_id)).loss
    loss.backward()
    norms = [p.grad.norm().item() for p in model.parameters() if p.grad is not None]
    base_model.detach_adapter(model)
    assert max(norms) > 0


def test_dropout_acts_in_training_and_not_in_evaluation(
    base: Any, encoded: EncodedDataset, make_job: MakeJob
) -> None:
    plain = make_job()
    dropped = plain.hyperparameters.model_copy(update={"lora_dropout": 0.5})
    model = base_model.attach_adapter(base, make_job(hyperparameters=dropped))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.constant_(parameter, 0.01)
    batch = collate([cut(encoded.eval[0], 128)], encoded.tokenizer.pad_token_id)
    trained = {model(**batch).loss.item() for _ in range(3)}
    with base_model.evaluation_mode(model), torch.no_grad():
        evaluated = {model(**batch).loss.item() for _ in range(3)}
    base_model.detach_adapter(model)
    assert len(trained) == 3
    assert len(evaluated) == 1


def test_answers_without_a_token_left_are_refused_as_a_sham(
    base: Any, encoded: EncodedDataset, make_job: MakeJob
) -> None:
    silent = EncodedDataset(
        [type(row)(tuple((source, ()) for source, _ in row.turns)) for row in encoded.train],
        encoded.eval,
        encoded.tokenizer,
    )
    finished, _ = run(base, silent, make_job())
    assert finished.outcome in ("failed", "diverged")
    assert "gradient norm" in finished.message


def test_targets_that_match_nothing_never_train(
    base: Any, encoded: EncodedDataset, make_job: MakeJob
) -> None:
    with pytest.raises((VramSearchError, ValueError)):
        run(base, encoded, make_job(target_modules=("no_such_proj",)))


def test_absurd_learning_rate_ends_as_diverged_or_finite(
    base: Any, encoded: EncodedDataset, make_job: MakeJob
) -> None:
    finished, events = run(base, encoded, make_job(learning_rate=1.0))
    losses = [event.eval_loss for event in events if isinstance(event, Evaluated)]
    assert finished.outcome in ("complete", "diverged")
    assert all(loss is None or math.isfinite(loss) for loss in losses)


def test_steps_and_rungs_are_counted_as_the_trainer_counts_them(make_job: MakeJob) -> None:
    job = make_job(training=TrainingSpec(num_train_epochs=2))
    assert (
        count_steps(job.training, job.plan, rows=9) == 2 * 3
    )  # 5 micro-batches of 2 make 3 steps an epoch
    assert rung_steps((1 / 9, 1 / 3, 2 / 3), 9) == (1, 3, 6)
    assert rung_steps((0.1, 0.5), 2) == (1,)
    assert warmup_steps(0.1, 14) == 2


def test_evaluation_waits_for_the_device_once(
    base: Any, encoded: EncodedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[int] = []
    to_list = torch.Tensor.tolist

    def noted(tensor: torch.Tensor) -> Any:
        waits.append(tensor.numel())
        return to_list(tensor)

    monkeypatch.setattr(torch.Tensor, "item", lambda tensor: pytest.fail("waits for a row"))
    monkeypatch.setattr(torch.Tensor, "tolist", noted)
    rows = [cut(row, 128) for row in encoded.eval]
    shapes: list[tuple[int, int]] = []
    evaluate(base, rows, 3, encoded.tokenizer.pad_token_id, shapes.append)
    lengths = sorted((len(row.input_ids) for row in rows), reverse=True)
    assert waits == [len(rows)]
    assert shapes == [(3, lengths[0]), (1, lengths[3])]
