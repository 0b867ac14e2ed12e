"""`vram-search show`: what a trial's plan was judged by is told as it was then."""

from __future__ import annotations

import io
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.factories import HYPERPARAMETERS, PLAN
from vram_search.cli.show import sparkline
from vram_search.gpu import SYSMEM_FALLBACK_HINT
from vram_search.store import Outcome, TrialResult, open_store, sqlite_url
from vram_search.units import GIB

Cli = Callable[..., subprocess.CompletedProcess[str]]

BYTES = {"allocated_bytes": 9 * GIB, "required_bytes": 10 * GIB, "parts": {"base_weights": GIB}}


@pytest.fixture
def vram_search(vram_search_without_training: Cli) -> Cli:
    """Runs the command line in this process."""
    return vram_search_without_training


def show(cli: Cli, home: Path, outcome: Outcome, predicted: dict[str, Any], **result: Any) -> str:
    """Of the one trial of a study."""
    store = open_store(sqlite_url(home / "vram-search.db"), create=True)
    study = store.create_study("one", {}, "d1", {"title": "a card"}, {"name": "a model"})
    trial = store.start_trial(study.id, 0, HYPERPARAMETERS, seed=1, data_hash="d1")
    store.record_plan(trial, PLAN, predicted)
    store.finish_trial(trial, TrialResult(outcome, **result))
    store.close()
    done = cli("show", "0")
    assert done.returncode == 0, done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    return done.stdout


@pytest.mark.parametrize(
    ("outcome", "excess", "place"), [("complete", -0.08, "within"), ("infeasible", 0.1, "above")]
)
def test_margin_and_budget_are_those_that_the_plan_was_judged_by(
    vram_search: Cli, home: Path, outcome: Outcome, excess: float, place: str
) -> None:
    judged = {"margin": 0.1, "budget_bytes": 12 * GIB, "excess": excess}
    text = show(vram_search, home, outcome, {**BYTES, **judged})
    line = f"with a margin of 10.0 %: 11.00 GiB, {place} the VRAM limit of 12.00 GiB"
    assert line in text


def test_trial_of_an_older_version_is_shown_without_its_margin(
    vram_search: Cli, home: Path
) -> None:
    text = show(vram_search, home, "complete", BYTES)
    assert "VRAM needed" in text and "margin" not in text


PREDICTED = {
    "allocated_bytes": 9 * GIB,
    "reserved_bytes": 10 * GIB,
    "process_bytes": 11 * GIB,
    "required_bytes": 10 * GIB,
    "parts": {
        "base_weights": 2 * GIB,
        "saved_activations": 7 * GIB,
        "allocator_slack": GIB,
        "context": GIB,
    },
}
MEASURED = {
    "parts": {"base_weights": 2 * GIB, "logits": 4 * GIB},
    "probe_allocated_bytes": 6 * GIB,
    "probe_reserved_bytes": 8 * GIB,
    "allocated_bytes": round(6.3 * GIB),
    "reserved_bytes": 9 * GIB,
    "process_bytes": round(9.5 * GIB),
    "emulated": "emulated 16 GB on NVIDIA H200",
    "utilization_percent": 97.4,
    "power_watts": 310.2,
    "temperature_celsius": 61,
    "sm_clock_mhz": 1755.0,
    "least_sm_clock_mhz": 1410,
}


def rows(text: str) -> dict[str, tuple[str, str]]:
    """Name -> (predicted, measured) of the table's rows."""
    found = re.findall(r"^    (\S.*?) {2,}(\S+(?: .iB)?) +(\S+(?: .iB)?)$", text, re.MULTILINE)
    return {name: (predicted, measured) for name, predicted, measured in found}


def test_predicted_and_measured_stand_side_by_side_part_by_part(
    vram_search: Cli, home: Path
) -> None:
    assert rows(show(vram_search, home, "complete", PREDICTED, measured=MEASURED)) == {
        "base weights": ("2.00 GiB", "2.00 GiB"),
        "saved activations": ("7.00 GiB", "-"),
        "logits": ("-", "4.00 GiB"),
        "= allocated": ("9.00 GiB", "6.00 GiB"),
        "allocator slack": ("1.00 GiB", "2.00 GiB"),
        "= reserved": ("10.00 GiB", "8.00 GiB"),
        "context": ("1.00 GiB", "512 MiB"),
        "= process": ("11.00 GiB", "8.50 GiB"),
        "VRAM needed": ("10.00 GiB", "-"),
    }


@pytest.mark.parametrize(("miss", "said"), [({}, False), ({"probe_miss": 1.05}, True)])
def test_peaks_of_probe_and_run_and_a_miss_are_told(
    vram_search: Cli, home: Path, miss: dict[str, float], said: bool
) -> None:
    text = show(vram_search, home, "complete", PREDICTED, measured={**MEASURED, **miss})
    assert "probe 6.00 GiB, whole run 6.30 GiB (1.050 times)" in text
    assert ("THE PROBE MISSED IT" in " ".join(text.split())) is said


def test_emulated_card_and_what_nvml_saw_are_named(vram_search: Cli, home: Path) -> None:
    text = show(
        vram_search, home, "complete", PREDICTED, measured=MEASURED, eval_loss=1.5, device="H200"
    )
    assert "predicted for a card; measured: emulated 16 GB on NVIDIA H200" in text
    seen = "97 % busy, 310 W, at most 61 °C, SM clock 1755 MHz, least 1410 MHz"
    assert seen in " ".join(text.split())
    best = " ".join(vram_search("best").stdout.split())
    assert "9.00 GiB reserved on emulated 16 GB on NVIDIA H200" in best
    assert "measured: emulated 16 GB on NVIDIA H200" in " ".join(vram_search("top").stdout.split())


def test_leak_is_told_with_what_survived(vram_search: Cli, home: Path) -> None:
    leak = {"leaked_bytes": 108 * 2**20, "survivors": ["float32 [49152, 576]", "bfloat16 [576]"]}
    text = show(vram_search, home, "complete", PREDICTED, measured={**MEASURED, **leak})
    assert "108 MiB left behind: float32 [49152, 576]; bfloat16 [576]" in text


def test_out_of_memory_shows_what_was_held_at_that_moment(vram_search: Cli, home: Path) -> None:
    error = {
        "stage": "train",
        "step": 3,
        "message": "CUDA out of memory",
        "requested_bytes": GIB,
        "batch_shape": [4, 512],
        "parts": {"base_weights": 2 * GIB, "logits": 3 * GIB},
        "remedy": SYSMEM_FALLBACK_HINT,
    }
    text = show(vram_search, home, "oom", PREDICTED, error=error)
    assert "in train: CUDA out of memory" in text
    assert "step 3, batch of 4 x 512 tokens" in text
    _, held = text.split("when memory ran out")
    assert [" ".join(line.split()) for line in held.splitlines()[1:5]] == [
        "logits 3.00 GiB",
        "base weights 2.00 GiB",
        "= allocated 5.00 GiB",
        "request that failed 1.00 GiB",
    ]
    assert "Prefer No Sysmem Fallback" in " ".join(text.split())


@pytest.mark.parametrize(
    ("measured", "words"),
    [
        ({"step_seconds": 0.612}, "0.55 s predicted, 0.612 s measured"),
        (None, "0.55 s predicted"),
    ],
)
def test_seconds_of_a_step_are_shown_as_predicted_and_as_measured(
    vram_search: Cli, home: Path, measured: dict[str, Any] | None, words: str
) -> None:
    predicted = {**BYTES, "step_seconds": 0.55}
    text = show(vram_search, home, "complete", predicted, measured=measured)
    assert f"  optimizer step   {words}\n" in text


def test_curve_has_letters_where_the_output_takes_no_block_characters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), "cp1252"))
    assert sparkline([1.0, 2.0, None, 3.0]) == "_= #"
