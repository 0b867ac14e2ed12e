"""An example of a night for pictures, with invented figures.

make_example(store)
save_live_view(Path("live-view.svg"))
"""

from __future__ import annotations

import io
import math
import random
import re
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sqlalchemy import update

from tests.report.conftest import STEPS, draw, make_study, parts_of
from vram_search.cli.console import make_console
from vram_search.cli.live import LiveView
from vram_search.gpu import GpuSample
from vram_search.protocol import Stage, Step
from vram_search.resources import shipped
from vram_search.search import Proposal
from vram_search.spec import Hyperparameters, load_study
from vram_search.store import Store, open_store, sqlite_url
from vram_search.store.progress import Progress, record_progress
from vram_search.store.queue import StudyQueue
from vram_search.store.runs import RunEnd, end_run, start_run
from vram_search.store.tables import queue as queue_table
from vram_search.store.tables import runs
from vram_search.store.untuned import UntunedEvaluation, record_untuned
from vram_search.worker.stop_rule import StopRule

UNTUNED = 2.3104
RUNNING_STEP = 31


def make_example(store: Store, *, is_running: bool = True) -> None:
    """Writes the finished study `support-7b` and, if `is_running`, a running one and a queue."""
    study = make_study(store, "support-7b", trials=60)
    evaluation = UntunedEvaluation(
        study.data_hash, UNTUNED, 0.79, None, 9.0, "NVIDIA H200", datetime.now(UTC)
    )
    record_untuned(store, study.id, evaluation)
    queue = StudyQueue(store.engine)
    if not is_running:
        run = start_run(store, study.id)
        begun = {"first_trial": 0, "best_before": None}
        with store.engine.begin() as connection:
            connection.execute(update(runs).where(runs.c.id == run).values(**begun))
        end_run(store, run, RunEnd("the time is over"))
        return
    other = make_study(store, "td-010", trials=8)
    record_untuned(store, other.id, evaluation)
    hyperparameters = draw(random.Random(3))
    number = len(store.trials(other.id))
    trial = store.start_trial(other.id, number, hyperparameters, seed=42, data_hash="9f2c6a41d0")
    parts = parts_of(hyperparameters)
    allocated = sum(parts.values()) - parts["allocator_slack"] - parts["context"]
    plan = {
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 4,
        "gradient_checkpointing": True,
        "enable_liger_kernel": False,
        "per_device_eval_batch_size": 2,
        "expandable_segments": True,
    }
    store.record_plan(
        trial, plan, {"parts": parts, "allocated_bytes": allocated, "required_bytes": allocated}
    )
    dice = random.Random(5)
    losses = [(s, 1.2 + 1.3 * math.exp(-6 * s / STEPS) + dice.gauss(0, 0.06)) for s in _steps()]
    state = Progress(
        "train",
        RUNNING_STEP,
        STEPS,
        losses,
        [(6, 1.71), (18, 1.39)],
        allocated,
        sum(parts.values()),
        sum(parts.values()),
    )
    record_progress(store.engine, trial, state)
    until = datetime.now(UTC) + timedelta(hours=5)
    queue.add("td-010", "", is_detached=True, state="running", until=until)
    started = datetime.now(UTC) - timedelta(hours=2)
    with store.engine.begin() as connection:
        connection.execute(update(queue_table).values(started_at=started))
    queue.add("summaries-3b", "", is_detached=True, trials=40)
    queue.add("tickets-7b", "", is_detached=True, state="paused")


def _steps() -> range:
    return range(1, RUNNING_STEP + 1)


def save_live_view(file: Path, width: int = 80) -> None:
    """Draws the live view of a running search as SVG."""
    console = make_console(
        file=io.StringIO(), width=width, record=True, force_terminal=True, color_system="truecolor"
    )
    study = load_study(shipped("studies", "td-010.yaml"))
    view = LiveView(study, StopRule(None, time.time() + 5 * 3600), "sqlite://", console)
    view.untuned_evaluated(UNTUNED)
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(sqlite_url(Path(folder) / "example.db"), create=True)
        for trial in store.trials(make_study(store, trials=14).id):
            view.trial_ended(trial)
        store.close()
    values = draw(random.Random(3))
    parts = parts_of(values)
    context = parts.pop("context")
    slack = parts.pop("allocator_slack")
    estimate = SimpleNamespace(
        allocated_parts=parts,
        allocated_bytes=sum(parts.values()),
        required_bytes=sum(parts.values()) + slack,
    )
    planned: Any = SimpleNamespace(estimate=estimate)
    point = Hyperparameters.model_validate(values)
    view.trial_started(Proposal(14, point, None, False, None), planned)
    used = sum(parts.values()) + slack + context
    sample = GpuSample(0.0, used, used, process_bytes=used, temperature_celsius=71)
    view.trial_event(Stage(stage="train", steps_total=STEPS), sample)
    dice = random.Random(5)
    for number in _steps():
        loss = 1.2 + 1.3 * math.exp(-6 * number / STEPS) + dice.gauss(0, 0.06)
        step = Step(step=number, loss=loss, learning_rate=2e-4, grad_norm=1.0, seconds=11.0)
        view.trial_event(step, sample)
    console.print(view._draw())
    drawn = console.export_svg(title="vram-search run td-010.yaml")
    drawn = re.sub(r"@font-face \{.*?\}", "", drawn, flags=re.DOTALL)  # from another server
    file.write_text(drawn, encoding="utf-8")
