"""What all tests share: a home of their own, and a study small enough to train in seconds."""

from __future__ import annotations

import copy
import gc
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, redirect_stdout
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import alembic.util
import pytest
import yaml
from hypothesis import HealthCheck, settings

from bench.tiny import TINY_CONFIG as TINY_CONFIG
from bench.tiny import TINY_SPACE
from tests.fake_process import FakeProcess
from vram_search.cli.main import main
from vram_search.data.rows_report import RowsCounted
from vram_search.store import Store, StudyRecord, open_store, sqlite_url
from vram_search.worker import count_rows, resident, training_device

# A fresh checkout builds Hypothesis' character tables in the first test; cores may be shared.
settings.register_profile(
    "full", max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("quick", settings.get_profile("full"), max_examples=25)
settings.load_profile("quick")  # `make test-all` loads the other

# numpy's threads spin where other processes hold the cores: a proposal takes 8 s instead of 0.4 s.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# torch's threads spin too: tiny models train with a third of the CPU time on one thread each.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A trace of a model takes seconds; tests of it switch it on.
os.environ["VRAM_SEARCH_TRACE"] = "0"

# A shell starts background jobs with Ctrl-C ignored, and their children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

AnyPath = str | os.PathLike[str]
_load_python_file = alembic.util.load_python_file


@cache
def _load_migration(folder: str, name: str) -> ModuleType:
    return _load_python_file(folder, name)


def load_python_file(dir_: AnyPath, filename: AnyPath) -> ModuleType:
    """Alembic's function, which imports a migration once.

    Optuna imports its migrations, with their mapped classes, three times for each new database.
    """
    if Path(dir_).name == "versions":
        return _load_migration(str(dir_), str(filename))
    return _load_python_file(dir_, filename)


alembic.util.load_python_file = load_python_file

TESTS = Path(__file__).parent
LONGEST_FIRST = ("faults", "web", "worker", "cli", "verify", "trace", "bench", "report")
"""Folders of tests that start processes, so that the short ones fill the end of a run."""


gc.disable()  # imports leave no garbage: looking for it takes a fifth of their time


def pytest_collection_finish() -> None:
    """Excludes everything that was imported from later garbage collections, and makes those rare.

    Each training collects garbage several times, which took it longer than its steps.
    """
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the folders with the longest tests first."""
    folders = dict(zip(LONGEST_FIRST, range(-len(LONGEST_FIRST), 0), strict=True))
    items.sort(key=lambda item: folders.get(item.path.relative_to(TESTS).parts[0], 0))


@pytest.fixture(scope="session", autouse=True)
def home_of_no_user(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests without a data folder of their own share one: the user's stays as it is.

    A cache that an earlier run had filled made tests fast that are slow on a new machine.
    """
    os.environ["VRAM_SEARCH_HOME"] = str(tmp_path_factory.mktemp("home"))
    os.environ.pop("VRAM_SEARCH_DATABASE", None)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder of the test's own; subprocesses inherit it."""
    folder = tmp_path / "home"
    monkeypatch.setenv("VRAM_SEARCH_HOME", str(folder))
    monkeypatch.delenv("VRAM_SEARCH_DATABASE", raising=False)
    return folder


@pytest.fixture
def url(home: Path) -> str:
    """The default database of the test's data folder."""
    return sqlite_url(home / "vram-search.db")


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    """A new store on a real SQLite file."""
    with closing(open_store(url, create=True)) as opened:
        yield opened


@pytest.fixture
def study(store: Store) -> StudyRecord:
    return store.create_study("demo", {}, "d1", {"name": "card"}, {"name": "model"})


def tiny_study(folder: Path, **changes: Any) -> dict[str, Any]:
    """A study that trains a tiny random model on 24 rows; keys of `changes` replace parts."""
    shape = folder / "shape"
    shape.mkdir(parents=True, exist_ok=True)
    (shape / "config.json").write_text(json.dumps(TINY_CONFIG))
    rows = [
        {"instruction": f"What is {n} plus {n}?", "output": f"{n} plus {n} is {2 * n}."}
        for n in range(24)
    ]
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return {
        "study": "tiny",
        "model": {"weights": "random", "shape": "shape"},
        "dataset": {"train": "rows.jsonl", "val_size": 4},
        "card": "rtx-5060-ti-16gb",
        "search_space": copy.deepcopy(TINY_SPACE),
        "training": {"max_steps": 6, "rungs": [0.5]},
        "budget": {"trials": 3},
        **changes,
    }


@pytest.fixture
def write_study(tmp_path: Path) -> Callable[..., Path]:
    """Writes a tiny study to a file: `write_study(training={"max_steps": 3})`."""

    def write(**changes: Any) -> Path:
        file = tmp_path / "study.yaml"
        file.write_text(yaml.safe_dump(tiny_study(tmp_path, **changes)))
        return file

    return write


REAL_CLI = (sys.executable, "-m", "vram_search")


def start_cli(
    *arguments: object, command: Sequence[str] = REAL_CLI, **options: Any
) -> subprocess.Popen[str]:
    """Starts `vram-search ...` in a process group of its own, as from a terminal.

    Args:
        options: of `subprocess.Popen`. Standard error is part of standard output.
    """
    return subprocess.Popen(
        [*command, *(str(argument) for argument in arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        start_new_session=os.name != "nt",
        **options,
    )


def read_until(process: subprocess.Popen[str], text: str) -> str:
    """Reads a run's lines up to the one that holds `text`."""
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += line
        if text in line:
            return seen
    raise AssertionError(f"{text!r} was never printed:\n{seen}")


def run_cli(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """`start_cli`, to its end."""
    process = start_cli(*arguments, **options)
    output, _ = process.communicate(timeout=240)
    return subprocess.CompletedProcess(process.args, process.returncode, output, "")


@pytest.fixture
def vram_search(home: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the command line to its end; stderr is part of stdout."""
    return run_cli


@pytest.fixture
def vram_search_without_training(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the command line in this process, which saves its imports, and trains in a thread with
    tests/fake_trainer.py; stderr follows stdout."""
    monkeypatch.setattr(resident, "TrainingProcess", FakeProcess)

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = ["vram-search", *(str(argument) for argument in arguments)]
        monkeypatch.setattr(sys, "argv", command)
        code = exit_code_of_main()
        printed = capsys.readouterr()
        return subprocess.CompletedProcess(command, code, printed.out + printed.err)

    return run


def exit_code_of_main() -> int:
    """Runs the command line in this process with what `sys.argv` holds."""
    terminate = signal.getsignal(signal.SIGTERM)  # `run` sets its own
    try:
        with pytest.raises(SystemExit) as ended:
            main()
    finally:
        signal.signal(signal.SIGTERM, terminate)
    assert isinstance(ended.value.code, int)
    return ended.value.code


class FinishedSearch:
    """A search that was run once, and is put back as it was for each test.

    Args:
        folder: new; it holds the study's files and the data folder `home`.
        trials: number of trials, trained by tests/fake_process.py.
        changes: of the tiny study.
    """

    def __init__(self, folder: Path, trials: int, **changes: Any) -> None:
        self.folder, self.home = folder, folder / "home"
        file = folder / "study.yaml"
        file.write_text(yaml.safe_dump(tiny_study(folder, **changes)))
        with pytest.MonkeyPatch.context() as patched, redirect_stdout(io.StringIO()) as output:
            patched.setenv("VRAM_SEARCH_HOME", str(self.home))
            patched.delenv("VRAM_SEARCH_DATABASE", raising=False)
            patched.setattr(resident, "TrainingProcess", FakeProcess)
            patched.setattr(sys, "stderr", output)
            patched.setattr(sys, "argv", ["vram-search", "run", str(file), "--trials", str(trials)])
            code = exit_code_of_main()
        self.printed = output.getvalue()
        assert code == 0, self.printed
        self._kept = folder.with_name(f"{folder.name}-kept")
        shutil.copytree(folder, self._kept)

    def put_back(self) -> None:
        shutil.rmtree(self.folder)
        shutil.copytree(self._kept, self.folder)

    def use(self, monkeypatch: pytest.MonkeyPatch) -> Path:
        """Puts the search back and makes its data folder the one of this test."""
        self.put_back()
        monkeypatch.setenv("VRAM_SEARCH_HOME", str(self.home))
        monkeypatch.delenv("VRAM_SEARCH_DATABASE", raising=False)
        return self.home


@pytest.fixture(scope="session")
def one_trial(tmp_path_factory: pytest.TempPathFactory) -> FinishedSearch:
    return FinishedSearch(tmp_path_factory.mktemp("one-trial"), 1)


@pytest.fixture
def home_of_one_trial(one_trial: FinishedSearch, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder that holds a search of one trial; subprocesses inherit it."""
    return one_trial.use(monkeypatch)


@pytest.fixture
def rows_are_not_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dry run starts no process that loads the tokenizer's library (three seconds)."""
    monkeypatch.setattr(count_rows, "count_rows", lambda question: RowsCounted(has_tokenizer=True))


@pytest.fixture
def training_device_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """`doctor` starts no process that loads torch."""
    answer = json.dumps({"device": "CPU", "compute_dtype": "float32", "reason": "it is a fake"})
    monkeypatch.setattr(training_device, "COMMAND", (sys.executable, "-c", f"print({answer!r})"))


@pytest.fixture(scope="session")
def tiny_config() -> str:
    """The tiny model's config.json."""
    return json.dumps(TINY_CONFIG)
