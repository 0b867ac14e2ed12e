"""`calibrate` and what `doctor` says of it, on a GPU that NVML only pretends."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from vram_search.cli import doctor
from vram_search.cli.main import main
from vram_search.errors import VramSearchError
from vram_search.estimate.calibration import (
    Calibration,
    calibration_folder,
    parse_calibration,
    save_calibration,
)
from vram_search.gpu import FakeReader, GpuDevice, GpuSample, NoGpuError
from vram_search.units import KIB, MIB

DEVICE = GpuDevice(0, "GPU-1", "NVIDIA H200", 143_771 * MIB, "580.159", "13.0", "9.0", False, None)
MEASURED = Calibration(
    measured_at="2026-11-25T10:00:00+00:00",
    card_name=DEVICE.name,
    total_bytes=DEVICE.total_bytes,
    driver="580.159",
    versions={name: str(doctor._version(name)) for name in doctor.STACK},
    context_bytes=758 * MIB,
    padded_context_bytes=772 * MIB,
    context_source="process",
    cublas_workspace_bytes=32 * MIB,
    cublaslt_workspace_bytes=8320 * KIB,
    allocator="as expected",
    measured_over_predicted=1.0012,
    notes=("something to know",),
)


class Answer(NamedTuple):
    code: int
    out: str
    err: str


Cli = Callable[..., Answer]


@pytest.fixture
def cli(
    home: Path,
    training_device_at_hand: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Cli:
    """`main()` in this process, with the pretended GPU."""

    def run(*arguments: str) -> Answer:
        monkeypatch.setattr(sys, "argv", ["vram-search", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Answer(ended.value.code, out, err)

    reader = FakeReader(DEVICE, [GpuSample(0.0, MIB, MIB)])
    monkeypatch.setattr("vram_search.gpu.NvmlReader", lambda: reader)
    return run


def measuring(monkeypatch: pytest.MonkeyPatch, result: Calibration | BaseException) -> None:
    """Lets `calibrate` measure this, or end with it."""

    def calibrate(reader: Any, progress: Callable[[str], None]) -> Calibration:
        progress("allocator and workspaces")
        if isinstance(result, BaseException):
            raise result
        return result

    monkeypatch.setattr("vram_search.worker.calibrate.calibrate", calibrate)


def test_the_figures_are_printed_and_stored(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    measuring(monkeypatch, MEASURED)
    answer = cli("calibrate")
    assert answer.code == 0
    for words in ("758 MiB", "772 MiB", "32 MiB", "as expected", "580.159", "something to know"):
        assert words in answer.out
    assert "allocator and workspaces" in answer.err
    (file,) = calibration_folder().iterdir()
    assert str(file) in answer.out
    assert parse_calibration(json.loads(file.read_text())) == MEASURED


def test_json_is_all_that_stdout_holds(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    measuring(monkeypatch, MEASURED)
    found = json.loads(cli("calibrate", "--json").out)
    assert found["context_bytes"] == 758 * MIB
    assert Path(found["file"]).is_file()


def test_without_a_gpu_it_is_wrong_input(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_gpu() -> FakeReader:
        raise NoGpuError("no NVIDIA driver is installed", "Install the driver.")

    monkeypatch.setattr("vram_search.gpu.NvmlReader", no_gpu)
    answer = cli("calibrate")
    assert (answer.code, answer.out) == (2, "")
    assert "nothing to calibrate: no NVIDIA driver is installed" in answer.err
    assert "Install the driver" in answer.err


@pytest.mark.parametrize(
    ("end", "code"), [(VramSearchError("a short run hung"), 1), (KeyboardInterrupt(), 130)]
)
def test_a_calibration_that_does_not_end_well_stores_nothing(
    cli: Cli, home: Path, monkeypatch: pytest.MonkeyPatch, end: BaseException, code: int
) -> None:
    measuring(monkeypatch, end)
    answer = cli("calibrate")
    assert (answer.code, answer.out) == (code, "")
    assert "Traceback" not in answer.err
    assert not home.exists()


def test_a_data_folder_that_cannot_be_written_is_named(
    cli: Cli, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measuring(monkeypatch, MEASURED)
    home.write_text("a file where a folder should be")
    answer = cli("calibrate")
    assert answer.code == 1
    assert "cannot be stored" in answer.err and str(home) in answer.err


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        (None, "not calibrated"),
        (MEASURED, "calibrated 2026-11-25"),
        (
            replace(MEASURED, driver="570.1"),
            "calibrated before driver 570.1 -> 580.159",
        ),
        (
            replace(MEASURED, versions={**MEASURED.versions, "peft": "0.1"}),
            "calibrated before peft 0.1 -> ",
        ),
    ],
)
def test_doctor_says_whether_the_card_is_calibrated(
    cli: Cli, stored: Calibration | None, words: str
) -> None:
    if stored is not None:
        save_calibration(stored)
    assert words in cli("doctor").out


def test_doctor_counts_a_damaged_calibration_as_a_problem(cli: Cli) -> None:
    save_calibration(MEASURED).write_text("{")
    answer = cli("doctor")
    assert answer.code == 1
    assert "PROBLEM   the calibration" in answer.out
