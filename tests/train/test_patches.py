"""Third-party internals that changed are reported with the library and its version."""

from __future__ import annotations

from types import MethodType

import pytest
import torch
from accelerate.utils import convert_outputs_to_fp32
from bitsandbytes.optim import optimizer as bnb_optimizer

from vram_search.train.patches import (
    InternalsChangedError,
    clear_cublas_workspaces,
    logits_in_their_own_dtype,
    memory_snapshot,
    record_memory_history,
    steps_in_the_background,
)


def test_missing_wait_of_the_optimizers_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(bnb_optimizer, "sync_gpu")
    with (
        pytest.raises(InternalsChangedError, match=r"bitsandbytes .* has no .*sync_gpu any more"),
        steps_in_the_background(is_paged=False),
    ):
        pass


def test_prepared_model_without_its_own_forward_pass_is_reported() -> None:
    model = torch.nn.Linear(2, 2)
    with logits_in_their_own_dtype(model):  # not prepared: nothing to take back
        assert "forward" not in vars(model)
    model.forward = MethodType(convert_outputs_to_fp32(torch.nn.Linear.forward), model)
    with (
        pytest.raises(InternalsChangedError, match=r"accelerate .* has no _original_forward"),
        logits_in_their_own_dtype(model),
    ):
        pass


def test_forward_pass_of_another_package_is_kept() -> None:
    model = torch.nn.Linear(2, 2)
    model.forward = MethodType(lambda self, rows: rows, model)  # as Liger changes a loaded model
    with logits_in_their_own_dtype(model):
        assert model(torch.ones(1, 2)).tolist() == [[1.0, 1.0]]


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (torch.cuda.memory, "_snapshot"),
        (torch.cuda.memory, "_record_memory_history"),
        (torch._C, "_cuda_clearCublasWorkspaces"),
    ],
)
def test_missing_function_of_torch_is_reported(
    owner: object, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(owner, name, raising=False)  # a CPU build has no cuBLAS
    functions = {
        "_snapshot": memory_snapshot,
        "_record_memory_history": lambda: record_memory_history(10),
        "_cuda_clearCublasWorkspaces": clear_cublas_workspaces,
    }
    with pytest.raises(InternalsChangedError, match=f"torch .* has no .*{name} any more") as caught:
        functions[name]()
    assert "pip install 'torch<=" in caught.value.remedy
