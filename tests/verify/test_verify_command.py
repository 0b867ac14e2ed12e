"""`vram-search verify` from the search to the answer, with a stand-in for LLaMA-Factory.

The tool itself is too large for the suite: `docs/experiments.md` holds the runs with it.
"""

from __future__ import annotations

import contextlib
import io
import json
import signal
import site
import subprocess
import sys
import venv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import LlamaConfig, LlamaForCausalLM

from tests.fake_process import ThreadProcess
from vram_search import verify as verify_room
from vram_search.cli.main import main
from vram_search.errors import InputError
from vram_search.store import open_store, sqlite_url
from vram_search.train.tokenizer import byte_tokenizer
from vram_search.units import GIB
from vram_search.verify import Recorded, ToolEnvironment, llamafactory_rows, recorded_rows
from vram_search.verify import verify as verify_trial
from vram_search.verify.llamafactory_run import LlamaFactoryRun
from vram_search.verify.recorded_rows import RecordedRows
from vram_search.verify.tool_run import ToolRows
from vram_search.verify.verify import overrides_for
from vram_search.worker import resident

VERIFY: Any = sys.modules[overrides_for.__module__]
"""The module; its name in the package is that of its function."""
STAND_IN = Path(__file__).parent / "stand_in"
STAND_IN_PROCESS = Path(__file__).parent / "stand_in_process"
"""Packages for the tool's process alone."""
STUDY = {
    "study": "tiny",
    "model": {"model_name_or_path": "model"},
    "dataset": {"train": "rows.jsonl", "val_size": 4},
    "card": "rtx-5060-ti-16gb",
    "search_space": {
        "optim": ["adamw_torch_fused"],
        "lora_target": ["qv"],
        "lora_rank": [4],
        "cutoff_len": [256],
        "batch_size": [4],
    },
    "training": {"max_steps": 3, "rungs": []},
    # One batch: the tool's mean over batches is then the record's mean over tokens.
    "plan": {"per_device_eval_batch_size": 4},
    "budget": {"trials": 1},
}


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory, tiny_config: str) -> Path:
    """A folder with the database of one complete trial."""
    folder = tmp_path_factory.mktemp("verify")
    config = LlamaConfig(**json.loads(tiny_config))
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    byte_tokenizer().save_pretrained(folder / "model")
    rows = [{"instruction": f"{n} plus {n}?", "output": f"It is {2 * n}."} for n in range(16)]
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (folder / "study.yaml").write_text(yaml.safe_dump(STUDY))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(resident, "TrainingProcess", ThreadProcess)
        done = vram_search("run", folder / "study.yaml", "--database", folder / "v.db")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment of its own, with the stand-in and the packages that are here."""
    folder = tmp_path_factory.mktemp("tool")
    venv.create(folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    ours = [f"import site; site.addsitedir({path!r})" for path in site.getsitepackages()]
    (packages / "tool.pth").write_text("\n".join([str(STAND_IN), str(STAND_IN_PROCESS), *ours]))
    return folder / "bin" / "python"


def vram_search(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs the command line in this process."""
    command = ["vram-search", *map(str, arguments)]
    out, errors = io.StringIO(), io.StringIO()
    terminate = signal.getsignal(signal.SIGTERM)  # `run` sets its own
    with pytest.MonkeyPatch.context() as patched, pytest.raises(SystemExit) as ended:
        patched.setattr(sys, "argv", command)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
            main()
    signal.signal(signal.SIGTERM, terminate)
    assert isinstance(ended.value.code, int)
    return subprocess.CompletedProcess(command, ended.value.code, out.getvalue(), errors.getvalue())


def ask_ourselves_here(question: recorded_rows.Question, folder: Path) -> RecordedRows:
    """The slow test of peft evaluates the adapter in a process of its own, as a user does."""
    found = recorded_rows.answer(question)
    (folder / "rows.record.json").write_text(found.model_dump_json())
    return found


@pytest.fixture(scope="module")
def verified(
    searched: Path, python: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[subprocess.CompletedProcess[str], Path]:
    """The command with nothing replaced, and its folder. The tool's log says what the record says,
    its eval_loss 0.005 more."""
    folder = tmp_path_factory.mktemp("verified")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(VERIFY, "_ask_ourselves", ask_ourselves_here)
        patched.setenv("STAND_IN", "")
        patched.setenv("STAND_IN_LOG", str(folder / "log.jsonl"))
        (folder / "log.jsonl").write_text(tool_log(searched, more_loss=0.005))
        done = vram_search(*command(searched, python, folder / "run"), "--json")
    return done, folder / "run"


def command(searched: Path, python: Path, folder: Path) -> tuple[object, ...]:
    return (
        *("verify", "best", "--with", "llama-factory", "--python", python),
        *("--database", searched / "v.db", "-o", folder),
    )


@pytest.fixture
def our_answer_at_hand(verified: tuple[object, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The kept adapter was evaluated once, by `verified`; its losses are the same each time."""
    answer = RecordedRows.model_validate_json((verified[1] / "rows.record.json").read_bytes())
    monkeypatch.setattr(VERIFY, "_ask_ourselves", lambda *question: answer)


@pytest.fixture
def tool_rows_at_hand(verified: tuple[object, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in encoded the export's rows once, for `verified`."""
    found = json.loads((verified[1] / "rows.tool.json").read_bytes())
    rows = {split: [tuple(row) for row in found[split]] for split in found}
    monkeypatch.setattr(LlamaFactoryRun, "encode_rows", lambda run: ToolRows.of(rows, run.config))


@pytest.fixture
def rows_encoded_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in encodes the export's rows in this process, which has imported transformers."""

    def encode_rows(run: LlamaFactoryRun) -> ToolRows:
        folder = run.log.parent
        with monkeypatch.context() as patched:
            patched.chdir(folder)
            patched.syspath_prepend(STAND_IN)
            patched.setattr(sys, "argv", ["rows", "rows.tool.json", *run._arguments])
            llamafactory_rows.main()
        found = json.loads((folder / "rows.tool.json").read_bytes())
        return ToolRows.of({split: list(map(tuple, found[split])) for split in found}, run.config)

    monkeypatch.setattr(LlamaFactoryRun, "encode_rows", encode_rows)


@pytest.fixture
def verify(
    searched: Path,
    python: Path,
    tmp_path: Path,
    our_answer_at_hand: None,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the command; `verified` has asked the tool's Python for its versions. The tool's
    eval_loss is so much more than the record's."""

    tool = ToolEnvironment(python, {}, has_gpu=False)

    def run(more_loss: float = 0.0, behaviour: str = "") -> subprocess.CompletedProcess[str]:
        monkeypatch.setenv("STAND_IN", behaviour)
        monkeypatch.setenv("STAND_IN_LOG", str(tmp_path / "log.jsonl"))
        (tmp_path / "log.jsonl").write_text(tool_log(searched, more_loss))
        monkeypatch.setattr(verify_room, "find_environment", lambda *words: tool)
        return vram_search(*command(searched, python, tmp_path / "run"))

    return run


def recorded_in(searched: Path) -> Recorded:
    store = open_store(sqlite_url(searched / "v.db"), create=False)
    study = store.latest_study()
    assert study is not None
    (trial,) = store.trials(study.id)
    found = Recorded(study, trial, store.step_losses(trial.id), store.evaluations(trial.id))
    store.close()
    return found


def tool_log(searched: Path, more_loss: float) -> str:
    recorded = recorded_in(searched)
    trial = recorded.trial
    total = {"total_steps": trial.steps_total, "epoch": 1.0}
    lines = [
        {"current_steps": step.step, "loss": step.loss, "lr": step.learning_rate, **total}
        for step in recorded.step_losses
    ]
    assert trial.own_cutoff_eval_loss is not None
    loss = trial.own_cutoff_eval_loss + more_loss
    lines.append({"current_steps": trial.eval_loss_step, "eval_loss": loss, **total})
    return "".join(json.dumps(line) + "\n" for line in lines)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"outcome": "pruned"}, "is pruned: it has no best checkpoint"),
        ({"adapter_path": None}, "is not kept"),
        ({"data_hash": "other"}, "has changed since trial 0"),
    ],
)
def test_a_trial_that_nothing_can_be_compared_with_is_refused(
    searched: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    recorded = recorded_in(searched)
    odd = replace(recorded, trial=replace(recorded.trial, **changes))
    with pytest.raises(InputError, match=message):
        verify_trial(odd, ToolEnvironment(Path("python"), {}, False), tmp_path, print, tolerance=1)


def test_a_trial_without_a_record_to_compare_is_refused_before_the_tool_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    (tmp_path / "runs.csv").write_text("run,outcome,eval_loss\none,complete,1.5\n")
    assert (
        vram_search("import", tmp_path / "runs.csv", "--database", tmp_path / "v.db").returncode
        == 0
    )
    done = vram_search(
        *("verify", "0", "--with", "llama-factory", "--database", tmp_path / "v.db"),
    )
    assert done.returncode == 2
    assert "trial 0 of study imported was imported" in done.stderr
    assert "pip install" not in done.stderr


def test_a_tool_that_does_the_same_agrees(
    verified: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    done, _ = verified
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    checks = {check["name"]: check for check in found["checks"]}
    assert found["agrees"]
    assert found["overrides"][0] == "use_cpu=true"
    assert found["versions"]["llamafactory"] == "0.9.5"
    assert (checks["train_rows"]["ours"], checks["eval_rows"]["theirs"]) == (12, 4)
    assert checks["eval_loss"]["difference"] == pytest.approx(0.005, abs=1e-4)
    assert checks["adapter_loss"]["difference"] == pytest.approx(0.0, abs=1e-4)
    assert checks["allocated_bytes"]["agrees"] is None
    assert "LLaMA-Factory; its log" in done.stderr


def test_another_loss_mask_and_another_eval_loss_are_disagreements(
    verify: Callable[..., subprocess.CompletedProcess[str]], rows_encoded_here: None
) -> None:
    done = verify(more_loss=0.03, behaviour="learns-prompts")
    assert done.returncode == 1, done.stdout + done.stderr
    differing = [line.split("  ")[0] for line in done.stdout.splitlines() if "DIFFERS" in line]
    assert differing == ["train rows", "eval rows", "eval loss"]
    assert "row 1 is the first that differs" in done.stdout
    assert "the export DISAGREES with the record" in done.stdout


def test_a_training_that_fails_shows_the_end_of_its_log(
    verify: Callable[..., subprocess.CompletedProcess[str]], tool_rows_at_hand: None
) -> None:
    done = verify(behaviour="fails")
    assert done.returncode == 1
    assert "LLaMA-Factory's training failed:\nCUDA out of memory, says the stand-in" in done.stderr


@pytest.mark.parametrize(("peak_gib", "agrees"), [(0.5, True), (2.06, True), (2.07, False)])
def test_a_peak_measured_on_a_gpu_is_compared_with_the_tools_log(
    searched: Path,
    python: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    our_answer_at_hand: None,
    tool_rows_at_hand: None,
    peak_gib: float,
    agrees: bool,
) -> None:
    """No GPU is needed: the record holds a peak, and the log lines are those of a tool with one
    (LLaMA-Factory `train/callbacks.py`: with RECORD_VRAM each line has torch's peaks in GiB)."""
    recorded = recorded_in(searched)
    measured = {"allocated_bytes": 2 * GIB}
    recorded = replace(recorded, trial=replace(recorded.trial, measured=measured))
    lines = [json.loads(line) for line in tool_log(searched, 0.0).splitlines()]
    for line in lines:
        line |= {"vram_allocated": 0.4, "vram_reserved": 0.6}
    lines[-1]["vram_allocated"] = peak_gib
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, lines)))
    monkeypatch.setenv("STAND_IN", "on-a-gpu")
    monkeypatch.setenv("STAND_IN_LOG", str(tmp_path / "log.jsonl"))
    tool = ToolEnvironment(python, {}, has_gpu=True)
    found = verify_trial(recorded, tool, tmp_path / "run", print, tolerance=0.01)
    checks = {check.name: check for check in found.checks}
    peak = checks.pop("allocated_bytes")
    assert (peak.ours, peak.theirs) == (2 * GIB, round(peak_gib * GIB))
    assert peak.agrees is found.agrees is agrees
    assert all(check.agrees for check in checks.values()) and found.overrides == ()


def test_a_missing_environment_is_wrong_input(searched: Path, tmp_path: Path) -> None:
    done = vram_search(
        *("verify", "best", "--with", "llama-factory", "--python", tmp_path / "python"),
        *("--database", searched / "v.db"),
    )
    assert done.returncode == 2
    assert "-m venv" in done.stderr


@pytest.mark.slow
def test_peft_itself_agrees(searched: Path, tmp_path: Path) -> None:
    """In processes of their own, as a user runs it."""
    arguments = ["verify", "best", "--with", "peft", "--json", "-o", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "vram_search", *arguments, "--database", str(searched / "v.db")],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert [name for name, check in checks.items() if not check["agrees"]] == ["allocated_bytes"]


@pytest.mark.parametrize(
    ("exported", "versions", "overrides"),
    [
        ("bf16", {"compute_dtype": "float32"}, ["bf16=false"]),
        ("bf16", {"compute_dtype": "bfloat16"}, []),
        ("fp16", {"compute_dtype": "float32"}, ["fp16=false"]),
        ("fp16", {}, ["fp16=false", "bf16=true"]),
    ],
)
def test_a_tool_without_a_gpu_trains_in_the_dtype_of_the_trial(
    searched: Path, exported: str, versions: dict[str, str], overrides: list[str]
) -> None:
    """The export is for the card; older records hold no dtype, and were trained in bf16."""
    trial = replace(recorded_in(searched).trial, versions=versions)
    config = {"bf16": exported == "bf16", "fp16": exported == "fp16"}
    assert overrides_for(config, trial, has_gpu=False) == ["use_cpu=true", *overrides]
    assert overrides_for(config, trial, has_gpu=True) == []
