"""The lines between supervisor and training process: every message arrives as it was sent."""

from __future__ import annotations

import math
from typing import get_args

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import BaseModel

from tests.factories import make_point
from vram_search.protocol import (
    Alive,
    AnyEvent,
    BaseEvaluated,
    CheckpointRefused,
    Evaluated,
    Finished,
    Generated,
    LoadFailed,
    LoadJob,
    Probed,
    PruneDecision,
    Ready,
    Resumed,
    Stage,
    Step,
    TrialJob,
    finite,
    parse_event,
    parse_job,
)
from vram_search.spec import MemoryPlan
from vram_search.spec.dataset import DatasetSpec
from vram_search.spec.study import TrainingSpec

NAN, INF = float("nan"), float("inf")
POINT = make_point(lora_target="k_proj,v_proj", learning_rate=1.2345678901234567e-4)
PLAN = MemoryPlan(
    per_device_train_batch_size=2, gradient_accumulation_steps=4, gradient_checkpointing=True
)
TRIAL = TrialJob(
    number=3,
    hyperparameters=POINT,
    target_modules=("k_proj", "v_proj"),
    plan=PLAN,
    training=TrainingSpec(num_train_epochs=1.5),
    eval_cutoff_len=512,
    seed=42,
    adapter_folder="/home/jürgen/a b",
)
STEP = Step(step=7, loss=1.5, learning_rate=1e-4, grad_norm=0.5, seconds=0.25)
EVALUATED = Evaluated(
    step=7,
    fraction=1 / 3,
    is_rung=True,
    eval_loss=1.25,
    own_cutoff_eval_loss=None,
    bits_per_byte=0.1,
    example_loss_sums=(1.0, None, 2.5),
    seconds=0.5,
)
FINISHED = Finished(
    outcome="oom",
    stage="train",
    step=7,
    steps_total=60,
    message='CUDA out of memory.\nTried to allocate 20.00 MiB "now" ü',
    requested_bytes=20_971_520,
    batch_shape=(2, 512),
    seconds={"probe": 0.1, "train": 61.5},
)
READY = Ready(
    device="NVIDIA H200",
    has_gpu=True,
    versions={"torch": "2.11"},
    train_rows=20,
    eval_rows=4,
    longest_tokens=128,
    longest_eval_tokens=128,
    rows_cut=0,
    data_hash="d1",
    allocated_bytes=2**40,
    seconds=12.5,
)
EVENTS = [
    READY,
    LoadFailed(message="no such model", remedy="name another", is_passing=True),
    Stage(stage="probe", steps_total=60),
    Probed(allocated_bytes=2**33, reserved_bytes=None, seconds=3.5),
    STEP,
    EVALUATED,
    FINISHED,
    BaseEvaluated(eval_loss=2.5, bits_per_byte=0.9, example_loss_sums=(1.0, None), seconds=0.5),
    Generated(answers=("two lines\nof an answer", "")),
    Alive(),
    Resumed(step=7, steps=(STEP,), evaluations=(EVALUATED,)),
    CheckpointRefused(reason="other settings"),
]
VERDICTS = [PruneDecision(prune=True), PruneDecision(prune=False)]


def load_job(folder: str) -> LoadJob:
    return LoadJob(
        model_name_or_path="Qwen/Qwen2.5-3B-Instruct",
        random_weights=False,
        tokenizer=None,
        dataset=DatasetSpec(train=folder),
        seed=42,
        cutoff_lens=(256, 512),
        eval_cutoff_len=512,
        cap_bytes=2**34,
    )


def named(message: BaseModel) -> str:
    return type(message).__name__


def test_every_event_is_tried_here() -> None:
    assert {type(event) for event in EVENTS} == set(get_args(AnyEvent))


@pytest.mark.parametrize("event", EVENTS, ids=named)
def test_event_arrives_as_it_was_sent_on_one_line(event: AnyEvent) -> None:
    line = event.model_dump_json()
    assert "\n" not in line
    assert parse_event(line + "\n") == event


@pytest.mark.parametrize("job", [TRIAL, *VERDICTS], ids=named)
def test_job_arrives_as_it_was_sent_on_one_line(job: TrialJob | PruneDecision) -> None:
    line = job.model_dump_json()
    assert "\n" not in line
    assert parse_job(line + "\n") == job


def test_load_job_arrives_as_it_was_sent(tmp_path_factory: pytest.TempPathFactory) -> None:
    rows = tmp_path_factory.mktemp("a b") / "rows.jsonl"
    rows.touch()
    job = load_job(str(rows))
    assert parse_job(job.model_dump_json()) == job


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_figures_that_are_not_finite_arrive_as_none(value: float) -> None:
    step = STEP.model_copy(update={"loss": value, "grad_norm": value})
    assert parse_event(step.model_dump_json()) == STEP.model_copy(
        update={"loss": None, "grad_norm": None}
    )
    evaluated = EVALUATED.model_copy(
        update={
            "eval_loss": value,
            "own_cutoff_eval_loss": value,
            "bits_per_byte": value,
            "example_loss_sums": (1.0, value, 2.5),
        }
    )
    arrived = parse_event(evaluated.model_dump_json())
    assert isinstance(arrived, Evaluated)
    assert (arrived.eval_loss, arrived.own_cutoff_eval_loss, arrived.bits_per_byte) == (None,) * 3
    assert arrived.example_loss_sums == (1.0, None, 2.5)


@given(st.floats())
@example(INF)
@example(-INF)
@example(NAN)
def test_finite_keeps_finite_figures_alone(value: float) -> None:
    assert finite(value) == (value if math.isfinite(value) else None)


@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(0, 1), st.text())
def test_figures_and_texts_arrive_to_the_last_digit(
    loss: float, fraction: float, message: str
) -> None:
    evaluated = EVALUATED.model_copy(update={"eval_loss": loss, "fraction": fraction})
    assert parse_event(evaluated.model_dump_json()) == evaluated
    fault = LoadFailed(message=message)
    assert parse_event(fault.model_dump_json()) == fault


NONSENSE = [
    "",
    "\n",
    "Loading checkpoint shards: 100%",
    "null",
    "[]",
    "{}",
    '{"event": "ready"}',
    '{"event": "step", "step": 1}',
    '{"event": "unheard of"}',
    '{"do": "unheard of"}',
    '{"do": "verdict", "prune": "perhaps"}',
    '{"do": "verdict", "prune": true, "why": "an unknown key"}',
    STEP.model_dump_json()[:-1],
    STEP.model_dump_json() * 2,
]


@pytest.mark.parametrize("line", [*NONSENSE, TRIAL.model_dump_json()])
def test_line_that_is_no_event_is_refused(line: str) -> None:
    with pytest.raises(ValueError):
        parse_event(line)


@pytest.mark.parametrize("line", [*NONSENSE, STEP.model_dump_json()])
def test_line_that_is_no_job_is_refused(line: str) -> None:
    with pytest.raises(ValueError):
        parse_job(line)
