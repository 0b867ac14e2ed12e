"""`selftest` as a whole, with a training process that trains nothing and a replayed NVML."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from vram_search.errors import VramSearchError
from vram_search.gpu import FakeReader, GpuDevice, GpuSample, NoDriverError, NoGpuError
from vram_search.selftest import run
from vram_search.selftest.check import Check, failed, passed
from vram_search.selftest.run import without_home
from vram_search.selftest.training import check_training
from vram_search.units import MIB

Cli = Callable[..., subprocess.CompletedProcess[str]]
DEVICE = GpuDevice(
    0, "GPU-1", "NVIDIA GeForce RTX 5060 Ti", 16_311 * MIB, "580.95", "13.0", "12.0", True, True
)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, training_device_at_hand: None) -> None:
    """The clocks are compared in a test of their own."""
    monkeypatch.setattr(run, "check_clock", lambda: passed("clock", "the clocks agree"))


def without_gpu(monkeypatch: pytest.MonkeyPatch, error: NoGpuError) -> None:
    def refuse() -> FakeReader:
        raise error

    monkeypatch.setattr("vram_search.gpu.NvmlReader", refuse)


def test_a_machine_without_a_gpu_passes(
    vram_search_without_training: Cli, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_gpu(monkeypatch, NoDriverError("no NVIDIA driver is installed"))
    done = vram_search_without_training("selftest")
    assert done.returncode == 0, done.stdout
    assert "passed             probe\n    a tiny model trains on CPU in float32" in done.stdout
    assert "not possible here  wddm\n    no GPU can be read here" in done.stdout
    assert list(home.iterdir()) == []


def test_json_can_be_attached_to_an_issue(
    vram_search_without_training: Cli,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    without_gpu(monkeypatch, NoDriverError("no NVIDIA driver is installed"))
    monkeypatch.setenv("HOME", str(home.parent))
    monkeypatch.setenv("USERPROFILE", str(home.parent))  # of Windows
    done = vram_search_without_training("selftest", "--json")
    found, _ = json.JSONDecoder().raw_decode(done.stdout)  # progress follows, from stderr
    assert str(home.parent) not in done.stdout
    assert found["passed"] is True
    names = [check["name"] for check in found["checks"]]
    assert names[:3] == ["clock", "disk", "keep_awake"]
    assert {"nvml", "wddm", "spill_policy", "allocator_cap", "probe", "step_time"} < set(names)
    assert found["machine"]["packages"]["torch"]


def test_a_driver_that_does_not_work_fails(
    vram_search_without_training: Cli, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_gpu(monkeypatch, NoGpuError("library and kernel module differ", "Restart the machine."))
    done = vram_search_without_training("selftest")
    assert done.returncode == 1
    assert "failed             nvml" in done.stdout
    assert "Restart the machine." in done.stdout


def test_the_light_installation_names_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise VramSearchError("this needs the package torch, which is not installed")

    monkeypatch.setattr(run, "check_training_packages", missing)
    reader = FakeReader(DEVICE, [GpuSample(0.0, MIB, MIB)])
    found = {check.name: check for check in run.selftest(tmp_path, lambda: reader, lambda _: None)}
    assert found["nvml"].state == "passed"
    for name in ("wddm", "spill_policy", "allocator_cap", "probe", "step_time"):
        assert found[name].state == "not possible here"
        assert "vram-search[train]" in found[name].remedy


def test_one_failure_does_not_stop_the_other_checks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def died(reader: object) -> list[Check]:
        raise VramSearchError("a short run hung")

    monkeypatch.setattr(run, "check_limits", died)
    monkeypatch.setattr(run, "check_training", lambda reader: [failed("probe", "it died")])
    monkeypatch.setattr(run, "check_disk", lambda folder: (tmp_path / "none").read_bytes())
    reader = FakeReader(DEVICE, [GpuSample(0.0, MIB, MIB)])
    found = {check.name: check for check in run.selftest(tmp_path, lambda: reader, lambda _: None)}
    assert found["disk"].sentence.endswith("cannot be used: No such file or directory")
    assert found["wddm"].sentence == "a short run hung"
    assert found["allocator_cap"].sentence == "the check wddm failed"
    assert found["step_time"].state == "not possible here"


def test_a_trial_under_watch_says_where_its_bytes_come_from(
    vram_search_without_training: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAGE_SECONDS", "0.1")
    reader = FakeReader(DEVICE, [GpuSample(0.0, 100 * MIB, MIB), GpuSample(0.0, 900 * MIB, MIB)])
    probe, step_time = check_training(reader)
    assert (probe.state, step_time.state) == ("passed", "passed")
    assert probe.figures["process_bytes_source"] == "device_delta"
    assert probe.figures["peak_process_bytes"] == 800 * MIB


def test_the_home_folder_is_removed_everywhere() -> None:
    found = without_home({"a": ["/home/ann/x", {"b": "see /home/ann"}], "c": 1}, Path("/home/ann"))
    assert found == {"a": ["~/x", {"b": "see ~"}], "c": 1}


def test_the_user_of_a_database_server_is_hidden() -> None:
    found = without_home({"url": "postgresql://ann:***@db:5432/x"}, Path("/home/ann"))
    assert found == {"url": "postgresql://***@db:5432/x"}
