"""Each finished trial becomes one run of a tracker, with its losses and hyperparameters."""

from __future__ import annotations

import os
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tests.outbound.test_delivery import configure
from tests.report.conftest import make_study
from vram_search.errors import InputError
from vram_search.outbound import trackers, write_trial
from vram_search.outbound.delivery import delivering
from vram_search.outbound.receiver import SendError
from vram_search.outbound.trackers import tracked_trial, tracker_receivers, write_in_a_process
from vram_search.outbound.write_trial import TrackedTrial
from vram_search.store import Store
from vram_search.store.events import events_after


@pytest.fixture
def trial(store: Store) -> TrackedTrial:
    make_study(store, trials=6)
    for event in events_after(store.engine, 0):
        if event.kind == "trial_ended" and event.data["outcome"] == "complete":
            found = tracked_trial(store, event)
            assert found is not None
            return found
    raise AssertionError("the study has a complete trial")


def test_every_finished_trial_has_an_event_file_of_tensorboard(store: Store, home: Path) -> None:
    pytest.importorskip("tensorboardX")
    configure(home, trackers=["tensorboard"])
    with delivering(store, pytest.fail):
        record = make_study(store, trials=3)
    finished = [t for t in store.trials(record.id) if t.outcome not in (None, "infeasible")]
    folders = {file.parent.name for file in home.rglob("events.out.tfevents.*")}
    assert folders == {f"trial-{t.number:04d}" for t in finished}
    with delivering(store, pytest.fail):  # after a restart none is written again
        pass
    assert len(list(home.rglob("events.out.tfevents.*"))) == len(finished)


def test_event_file_holds_the_recorded_losses(trial: TrackedTrial) -> None:
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    write_trial.write_tensorboard(trial)
    (file,) = (Path(trial.folder) / "tensorboard" / trial.name).iterdir()
    data, found, at = file.read_bytes(), [], 0
    while at < len(data):  # TFRecord: length, its checksum, the event, its checksum
        size = int.from_bytes(data[at : at + 8], "little")
        assert int.from_bytes(data[at + 8 : at + 12], "little") == masked_crc32c(data[at : at + 8])
        event = Event.FromString(data[at + 12 : at + 12 + size])
        found += [(v.tag, event.step, v.simple_value) for v in event.summary.value]
        at += 16 + size
    losses = [(step, value) for tag, step, value in found if tag == "eval/loss"]
    assert losses == [(step, pytest.approx(value)) for step, value in trial.series["eval/loss"]]
    assert ("result/eval_loss", 0, pytest.approx(trial.results["eval_loss"])) in found


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_wandb_and_trackio_get_config_and_every_step(
    trial: TrackedTrial, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    calls: list[tuple[str, Any]] = []
    run = SimpleNamespace(
        log=lambda values, step: calls.append(("log", (step, values))),
        finish=lambda: calls.append(("finish", None)),
    )
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)

    def init(**options: Any) -> SimpleNamespace:
        calls.append(("init", options))
        return run

    module.init = init  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, name, module)
    write_trial.WRITERS[name](trial)
    assert calls[0][1]["name"] == trial.name
    assert calls[0][1]["config"]["lora_rank"] == trial.parameters["lora_rank"]
    steps = [step for kind, item in calls if kind == "log" for step in [item[0]]]
    assert steps == sorted(steps)
    assert {"result/eval_loss"} <= set(calls[-2][1][1])
    assert calls[-1][0] == "finish"


def test_mlflow_gets_a_run_in_the_studys_experiment(
    trial: TrackedTrial, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, Any]] = []

    class Client:
        def get_experiment_by_name(self, name: str) -> None:
            calls.append(("experiment", name))

        def create_experiment(self, name: str) -> str:
            return "1"

        def create_run(self, experiment: str, run_name: str) -> Any:
            calls.append(("run", run_name))
            return SimpleNamespace(info=SimpleNamespace(run_id="r", start_time=5))

        def log_batch(self, run: str, **batch: Any) -> None:
            calls.append(("batch", batch))

        def set_terminated(self, run: str) -> None:
            calls.append(("end", run))

    entities, tracking = ModuleType("mlflow.entities"), ModuleType("mlflow.tracking")
    for name in ("Metric", "Param", "RunTag"):
        setattr(entities, name, lambda *values: values)
    tracking.MlflowClient = Client  # type: ignore[attr-defined]
    root = ModuleType("mlflow")
    root.__spec__ = ModuleSpec("mlflow", None)
    for name, module in (
        ("mlflow", root),
        ("mlflow.entities", entities),
        ("mlflow.tracking", tracking),
    ):
        monkeypatch.setitem(sys.modules, name, module)
    write_trial.write_mlflow(trial)
    assert calls[0] == ("experiment", trial.study)
    batches = [batch for kind, batch in calls if kind == "batch"]
    metrics = [metric for batch in batches for metric in batch.get("metrics", ())]
    expected = {("eval/loss", value, 5, step) for step, value in trial.series["eval/loss"]}
    assert expected <= set(metrics)
    assert calls[-1] == ("end", "r")


def test_tracker_whose_package_is_missing_is_refused_with_its_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(trackers._PACKAGES, "wandb", "no_such_package_here")
    with pytest.raises(InputError, match="wandb needs the package"):
        tracker_receivers(["wandb"])


@pytest.mark.parametrize(
    ("does", "said"),
    [
        (
            "raise ValueError('no login for https://me:pw-77@host with abcd1234\\nmore')",
            "ValueError: no login for https://me:***@host with ***",
        ),
        ("sys.exit('see the help')", "SystemExit: see the help"),
        ("os._exit(9)", "its process ended with 9"),
        ("input('API key: ')", "EOFError: EOF when reading a line"),
        ("time.sleep(60)", "it did not end within 1 s"),
    ],
    ids=["error", "exit", "crash", "question", "hangs"],
)
def test_tracker_that_fails_asks_or_hangs_is_one_line_without_secrets(
    trial: TrackedTrial,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    does: str,
    said: str,
) -> None:
    lines = ["import os, sys, time", "print('* a project!')", "print('!', file=sys.stderr)", ""]
    code = "\n".join(lines) + f"def init(**options):\n    {does}\n"
    (tmp_path / "trackio.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *filter(None, sys.path)]))
    monkeypatch.setenv("TRACKIO_TOKEN", "abcd1234")
    monkeypatch.setattr(trackers, "WRITE_SECONDS", 1.0 if "sleep" in does else 120.0)
    with pytest.raises(SendError) as failed:
        write_in_a_process("trackio", trial)
    assert str(failed.value) == said
    assert capfd.readouterr() == ("", "")
