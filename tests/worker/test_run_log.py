"""The logs of a run: complete, the same for programs and people, without secrets and rows."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path

import pytest

from tests.factories import FakeListener
from vram_search.errors import VramSearchError
from vram_search.protocol import Stage, Step
from vram_search.store.location import StudyFolder
from vram_search.store.run_logs import log_files
from vram_search.worker import run_log
from vram_search.worker.run_log import RUNS_KEPT, RunLog, logged_run

SECRET, ROW = "hunter2-geheim", "a row about otters"


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    return StudyFolder(tmp_path / "search.db.files", "demo")


def texts(folder: StudyFolder) -> list[str]:
    (file,) = folder.logs.glob("*.jsonl")
    return [json.loads(line)["text"] for line in file.read_text("utf-8").splitlines()]


def test_whole_search_is_logged_without_secrets_and_rows(
    vram_search_without_training: Callable[..., subprocess.CompletedProcess[str]],
    write_study: Callable[..., Path],
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    study = write_study(budget={"trials": 1})
    rows = study.parent / "rows.jsonl"
    planted = json.dumps({"instruction": ROW, "output": f"{ROW} password={SECRET}"})
    rows.write_text("\n".join([planted, *rows.read_text().splitlines()]))
    assert vram_search_without_training("run", study).returncode == 0

    files = list((home / "vram-search.db.files" / "tiny").rglob("*.log"))
    logs = list((home / "vram-search.db.files" / "tiny" / "logs").iterdir())
    assert {file.suffix for file in logs} == {".jsonl", ".log"}
    for file in {*files, *logs}:
        assert ROW not in file.read_text("utf-8") and SECRET not in file.read_text("utf-8")
    done = vram_search_without_training("logs", "--json")
    events = [json.loads(line)["event"] for line in done.stdout.splitlines()]
    assert [name for name in events if name != "note"] == [
        "run_started",
        "untuned",
        "trial_started",
        "stage",
        "probed",
        "stage",
        "step",
        "evaluated",
        "evaluated",
        "finished",
        "trial_ended",
        "run_ended",
    ]
    of_trial = vram_search_without_training("logs", "0")
    assert "trial 0 ended: complete" in of_trial.stdout
    assert "run_started" not in of_trial.stdout
    assert vram_search_without_training("logs", "5").returncode == 2

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", interrupt)
    followed = vram_search_without_training("logs", "--follow")
    assert followed.returncode == 0, "Ctrl-C ends it quietly"
    assert followed.stdout.splitlines()[-1].endswith("run ended: 1 trial is finished")


@pytest.mark.parametrize(
    "text",
    [
        f"postgresql://me:{SECRET}@host/db cannot be reached",
        f"https://host/rows?token={SECRET} cannot be read",
        f"the model could not be loaded\n  a library says: {SECRET}",
        f"driver says password='{SECRET}'",
    ],
)
def test_secret_in_a_message_does_not_reach_the_log(folder: StudyFolder, text: str) -> None:
    listener = FakeListener()
    with (
        pytest.raises(VramSearchError),
        logged_run(folder, listener) as logged,
    ):
        logged.note(text)
        raise VramSearchError(text)
    written = [file.read_text("utf-8") for file in folder.logs.iterdir()]
    assert len(written) == 2
    assert all(SECRET not in log and "run failed" in log for log in written)


def test_steps_are_logged_every_thirty_seconds_of_training(folder: StudyFolder) -> None:
    listener = FakeListener()
    with logged_run(folder, listener) as logged:
        logged.trial_event(Stage(stage="train", steps_total=100), None)
        for step in range(1, 101):
            logged.trial_event(
                Step(step=step, loss=1.0, learning_rate=1e-4, grad_norm=1.0, seconds=1.0), None
            )
    steps = [text for text in texts(folder) if ": step " in text]
    assert steps[0] == "trial None: step 1 of 100, loss 1.0"
    assert len(steps) == 4


def test_interruption_and_error_are_the_last_entry(folder: StudyFolder) -> None:
    for error, said in (
        (KeyboardInterrupt(), "run interrupted; finished trials are kept"),
        (RuntimeError("a bug"), "run failed: RuntimeError: a bug"),
    ):
        with pytest.raises(type(error)), logged_run(folder, FakeListener()):
            raise error
        assert texts(folder)[-1] == said
        for file in folder.logs.iterdir():
            file.unlink()


def test_log_that_cannot_be_written_ends_no_run(folder: StudyFolder) -> None:
    folder.path.mkdir(parents=True)
    folder.logs.write_text("a file where the folder should be")
    listener = FakeListener()
    with logged_run(folder, listener) as logged:
        logged.note("goes on")
    assert listener.notes == ["goes on"]


def test_logs_of_the_latest_runs_are_kept(folder: StudyFolder) -> None:
    folder.logs.mkdir(parents=True)
    for number in range(RUNS_KEPT + 5):
        (folder.logs / f"2000{number:04d}.jsonl").write_text("")
    RunLog(folder.logs)
    kept = sorted(file.name for file in folder.logs.glob("*.jsonl"))
    assert len(kept) == RUNS_KEPT
    assert kept[0] == "20000006.jsonl"


def test_log_of_a_later_run_has_a_later_name_when_the_clock_is_set_back(
    folder: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for offset in (0, -3600, -7200, 60, -60):
        RunLog(folder.logs).write("note", str(offset))
        moved = datetime.now(UTC) + timedelta(seconds=offset)
        monkeypatch.setattr(run_log, "datetime", clock_at(moved))
    said = [json.loads(file.read_text())["text"] for file in log_files(folder.logs)]
    assert said == ["0", "-3600", "-7200", "60", "-60"]


def test_log_of_an_unknown_name_is_no_obstacle(folder: StudyFolder) -> None:
    folder.logs.mkdir(parents=True)
    (folder.logs / "99991231T235959.999999+0000.jsonl").touch()
    (folder.logs / "mine.jsonl").touch()
    RunLog(folder.logs)
    assert len(log_files(folder.logs)) == 3


def clock_at(moment: datetime) -> type[datetime]:
    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Clock:
            return cls.fromtimestamp(moment.timestamp(), tz)

    return Clock
