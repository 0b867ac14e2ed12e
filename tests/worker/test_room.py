"""What a run finds at its start: half-saved adapters, a locked study, a card that another plays."""

from __future__ import annotations

from pathlib import Path

import pytest
from filelock import Timeout

from vram_search.errors import InputError
from vram_search.estimate.hardware import (
    CUBLAS_WORKSPACE,
    CUBLAS_WORKSPACE_DATACENTER,
    Hardware,
)
from vram_search.gpu import CardMemory, FakeReader, GpuDevice, GpuSample
from vram_search.store.location import StudyFolder
from vram_search.units import GIB
from vram_search.worker.budget import Budget
from vram_search.worker.room import remove_half_saved
from vram_search.worker.run import _locked

H200 = GpuDevice(0, "GPU-1", "NVIDIA H200", 140 * GIB, "580", "13.0", "9.0", False, False)


def budget(emulated: str | None) -> Budget:
    reader = FakeReader(H200, [GpuSample(0.0, 0, 0)])
    return Budget(GIB, GIB, CardMemory(GIB), reader, emulated=emulated)


def test_card_that_a_larger_one_plays_takes_that_ones_workspaces() -> None:
    small = Hardware(context_bytes=7, cublas_workspace_bytes=CUBLAS_WORKSPACE)
    played = budget("emulated 16 GB on NVIDIA H200").as_played(small)
    assert played == Hardware(7, CUBLAS_WORKSPACE_DATACENTER)
    assert budget(None).as_played(small) == small


def test_adapters_that_were_being_saved_when_the_process_was_killed_are_removed(
    tmp_path: Path,
) -> None:
    for name in ("trial-0001", "trial-0002.new", "trial-0002.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text("{}")
    remove_half_saved(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["trial-0001"]
    remove_half_saved(tmp_path / "not there yet")


def test_timeout_within_a_run_is_not_taken_for_a_locked_study(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path, "demo")
    with pytest.raises(Timeout), _locked(folder):
        raise Timeout("another lock")
    with (
        _locked(folder),
        pytest.raises(InputError, match="being run by another process"),
        _locked(folder),
    ):
        pass
    with _locked(folder):
        pass  # it was released
