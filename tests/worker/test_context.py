"""What a run finds at its start: half-saved adapters, a locked study, a card that another plays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from filelock import Timeout

from tests.factories import make_point
from vram_search.errors import InputError
from vram_search.estimate import plans, smallest
from vram_search.estimate.memory.hardware import Hardware
from vram_search.gpu import FakeReader, GpuDevice, GpuSample
from vram_search.spec.allocator_sizes import CUBLAS_WORKSPACE, CUBLAS_WORKSPACE_DATACENTER
from vram_search.spec.card_memory import CardMemory
from vram_search.store.location import StudyFolder
from vram_search.units import GIB
from vram_search.worker.budget import Budget
from vram_search.worker.context import RunContext, remove_leftovers
from vram_search.worker.queue_place import study_locked

H200 = GpuDevice(0, "GPU-1", "NVIDIA H200", 140 * GIB, "580", "13.0", "9.0", False, False)


def budget(emulated: str | None) -> Budget:
    reader = FakeReader(H200, [GpuSample(0.0, 0, 0)])
    return Budget(GIB, GIB, CardMemory(GIB), reader, emulated=emulated)


def test_card_that_a_larger_one_plays_takes_that_ones_workspaces_and_attention() -> None:
    small = Hardware(7, CUBLAS_WORKSPACE, prefers_cudnn=False)
    played = budget("emulated 16 GB on NVIDIA H200").as_played(small)
    assert played == Hardware(7, CUBLAS_WORKSPACE_DATACENTER)
    assert budget(None).as_played(small) == small


def test_bytes_are_predicted_once_for_points_that_differ_in_learning_rate_alone(
    make_context: Callable[..., RunContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = Mock(wraps=plans)
    monkeypatch.setattr("vram_search.worker.context.plans", planned)
    context = make_context(None)
    point = make_point(cutoff_len=2048, batch_size=16)
    for rate in (1e-4, 2e-4, 3e-4):
        assert context.fits(point.model_copy(update={"learning_rate": rate}))
    assert planned.call_count == 1

    least = smallest(context.candidates(point))
    context.margin = context.budget_bytes / least.estimate.required_bytes - 1 + 1e-3
    planned.reset_mock()
    assert not context.fits(point), "a margin that has grown counts at once"
    assert planned.call_count == 0
    assert context.fits(point.model_copy(update={"lora_rank": 4}))
    assert planned.call_count == 1


def test_adapters_that_no_trial_keeps_are_removed(tmp_path: Path) -> None:
    names = ("trial-0001", "trial-0002", "trial-0002.new", "trial-0003.old", "mine", "trial-x")
    adapters = tmp_path / "demo" / "adapters"
    for name in names:
        (adapters / name).mkdir(parents=True)
        (adapters / name / "adapter_config.json").write_text("{}")
    kept: Any = SimpleNamespace(adapter_path=str(adapters / "trial-0001"))
    lost: Any = SimpleNamespace(adapter_path=None)
    removed = remove_leftovers(adapters, [kept, lost])
    assert [path.name for path in removed] == ["trial-0002", "trial-0002.new", "trial-0003.old"]
    assert sorted(path.name for path in adapters.iterdir()) == ["mine", "trial-0001", "trial-x"]
    assert remove_leftovers(tmp_path / "not there yet", []) == []


def test_timeout_within_a_run_is_not_taken_for_a_locked_study(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path, "demo")
    with pytest.raises(Timeout), study_locked(folder):
        raise Timeout("another lock")
    with (
        study_locked(folder),
        pytest.raises(InputError, match="being run by another process"),
        study_locked(folder),
    ):
        pass
    with study_locked(folder):
        pass  # it was released
