"""A run's budget is the one that `vram-search estimate` prints, calibrated cards included."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vram_search.errors import InputError
from vram_search.estimate import check_card_holds_base, estimate_base_bytes
from vram_search.estimate.calibration import Calibration, save_calibration
from vram_search.gpu import GpuDevice, GpuReader, GpuSample
from vram_search.gpu.fake import FakeReader
from vram_search.protocol import AnyEvent, Finished, Ready, TrialJob
from vram_search.search import Proposal
from vram_search.spec import load_study
from vram_search.store import TrialRecord, open_store, sqlite_url
from vram_search.units import GIB, MIB
from vram_search.worker import run
from vram_search.worker.prepare import Prepared, prepare

Cli = Callable[..., subprocess.CompletedProcess[str]]
WriteStudy = Callable[..., Path]

TOTAL = 16 * GIB
CARD = {
    "name": "toy",
    "total_bytes": TOTAL,
    "reserve_bytes": GIB,
    "context_bytes": 500 * MIB,
}
DEVICE = GpuDevice(0, "GPU-1", "toy", TOTAL, "580", "13.0", "12.0", False, None)


class Trainer:
    """Stands for the training process; every trial is pruned at once."""

    pid = None
    log = Path("none")

    def __init__(self, *_: object, **__: object) -> None: ...

    def ready(self) -> Ready:
        return Ready(
            device="toy",
            has_gpu=False,
            versions={},
            train_rows=8,
            eval_rows=4,
            longest_tokens=64,
            rows_cut=0,
            data_hash="d1",
            allocated_bytes=None,
            seconds=1,
        )

    def run(self, job: TrialJob, on_event: object, prune: object) -> Finished:
        return Finished(outcome="pruned", stage="train", step=1, steps_total=1)

    def replace(self) -> None: ...


class Listener:
    def note(self, text: str) -> None: ...
    def trial_started(self, proposal: Proposal, planned: object) -> None: ...
    def trial_event(self, event: AnyEvent, sample: GpuSample | None) -> None: ...
    def trial_ended(self, record: TrialRecord) -> None: ...


def calibrate(context_bytes: int) -> None:
    save_calibration(
        Calibration(
            measured_at="2026-11-25T10:00:00+00:00",
            card_name="toy",
            total_bytes=TOTAL,
            driver="580",
            versions={},
            context_bytes=context_bytes,
            padded_context_bytes=context_bytes,
            context_source="process",
            cublas_workspace_bytes=MIB,
            cublaslt_workspace_bytes=MIB,
            allocator="as expected",
            measured_over_predicted=1.0,
        )
    )


def prepared(file: Path) -> Prepared:
    return prepare(load_study(file), lambda _note: None)


def budget_of_run(study: Prepared, home: Path, trials: int) -> Any:
    """As the last trial of a run records it."""
    run.run_study(study, run.StopRule(trials, None), Listener())
    store = open_store(sqlite_url(home / "vram-search.db"), create=False)
    record = store.study("tiny")
    assert record is not None
    predicted = store.trials(record.id)[-1].predicted
    store.close()
    return (predicted or {})["budget_bytes"]


@pytest.mark.parametrize(
    "reader", [None, FakeReader(DEVICE, [GpuSample(0.0, GIB, GIB)])], ids=["no GPU", "GPU"]
)
def test_run_and_estimate_have_one_budget_before_and_after_a_calibration(
    reader: GpuReader | None,
    home: Path,
    write_study: WriteStudy,
    vram_search: Cli,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run, "ResidentTrainer", Trainer)
    monkeypatch.setattr(run, "open_reader", lambda: reader)
    file = write_study(card=CARD, budget={"trials": 2})
    for trials, context_bytes in ((1, 500 * MIB), (2, 700 * MIB)):
        (plan, *_) = json.loads(vram_search("estimate", file, "--json").stdout)["plans"]
        assert plan["budget_bytes"] == TOTAL - GIB - context_bytes
        assert budget_of_run(prepared(file), home, trials) == plan["budget_bytes"]
        calibrate(700 * MIB)


def test_dry_run_judges_by_the_calibrated_budget(home: Path, write_study: WriteStudy) -> None:
    study = prepared(write_study(card=CARD))
    assert all(fits for _, _, fits in run.preview(study))
    calibrate(TOTAL - GIB - 3 * MIB)
    assert not any(fits for _, _, fits in run.preview(study))


def test_base_that_the_calibrated_card_cannot_hold_is_refused(
    home: Path, write_study: WriteStudy
) -> None:
    study = prepared(write_study(card=CARD))
    check_card_holds_base(study.shape, study.study.card)
    calibrate(TOTAL - GIB - estimate_base_bytes(study.shape))
    with pytest.raises(InputError, match="too small for this base model"):
        check_card_holds_base(study.shape, study.study.card)
