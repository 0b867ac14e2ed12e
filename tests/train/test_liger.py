"""Liger patches the base once, when it is loaded; plans that say otherwise are refused."""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any

import pytest
import torch
from transformers.integrations import liger as transformers_liger

from vram_search.errors import InputError
from vram_search.protocol import LoadJob, TrialJob
from vram_search.spec import MemoryPlan
from vram_search.train import model as base_model
from vram_search.train.liger_error import LigerRefusedError
from vram_search.train.trainer import make_trainer

MakeJob = Callable[..., TrialJob]
WITH_LIGER = MemoryPlan(
    per_device_train_batch_size=1,
    gradient_accumulation_steps=1,
    gradient_checkpointing=False,
    enable_liger_kernel=True,
)


@pytest.fixture
def patched(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The models that a stand-in for liger-kernel patched."""
    models: list[Any] = []

    def apply(model: Any, kernel_config: Any) -> None:
        forward = type(model).forward

        def lce_forward(self: Any, *args: Any, **kwargs: Any) -> Any:
            return forward(self, *args, **kwargs)

        lce_forward.__module__ = "liger_kernel.transformers.model.llama"
        model.forward = MethodType(lce_forward, model)
        models.append(model)

    monkeypatch.setattr(transformers_liger, "apply_liger_kernel", apply)
    return models


def liger_job(load_job: LoadJob) -> LoadJob:
    return load_job.model_copy(update={"enable_liger_kernel": True})


def test_liger_is_applied_once_and_not_by_the_trainer(
    load_job: LoadJob, make_job: MakeJob, patched: list[Any]
) -> None:
    base = base_model.load_base(liger_job(load_job))
    job = make_job(plan=WITH_LIGER)
    for _ in range(2):
        model = base_model.attach_adapter(base, job)
        trainer = make_trainer(
            model, job, job.plan, [], steps=1, horizon=1, pad_token_id=0, callbacks=[]
        )
        assert not trainer.args.use_liger_kernel
        base_model.detach_adapter(model)
    assert patched == [base]


def test_plan_and_loaded_base_must_agree_on_liger(
    base: Any, load_job: LoadJob, make_job: MakeJob, patched: list[Any]
) -> None:
    with pytest.raises(AssertionError, match="agree on Liger"):
        base_model.attach_adapter(base, make_job(plan=WITH_LIGER))
    with pytest.raises(AssertionError, match="agree on Liger"):
        base_model.attach_adapter(base_model.load_base(liger_job(load_job)), make_job())


def test_missing_package_and_unknown_model_are_said_at_loading(
    load_job: LoadJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transformers_liger, "is_liger_kernel_available", lambda: False)
    with pytest.raises(InputError, match="needs the package liger-kernel"):
        base_model.load_base(liger_job(load_job))
    monkeypatch.setattr(transformers_liger, "apply_liger_kernel", lambda model, config: None)
    with pytest.raises(InputError, match="no fused cross entropy for LlamaForCausalLM"):
        base_model.load_base(liger_job(load_job))


def test_forward_pass_of_liger_that_fails_is_refused_when_the_model_is_loaded(
    load_job: LoadJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    def apply(model: Any, kernel_config: Any) -> None:
        def lce_forward(self: Any, *args: Any, **kwargs: Any) -> Any:
            raise AttributeError("'NoneType' object has no attribute 'shape'")  # no image

        lce_forward.__module__ = "liger_kernel.transformers.model.gemma3"
        model.forward = MethodType(lce_forward, model)

    monkeypatch.setattr(transformers_liger, "apply_liger_kernel", apply)
    with pytest.raises(
        LigerRefusedError, match=r"step of LlamaForCausalLM with liger-kernel fails: 'NoneT"
    ):
        base_model.load_base(liger_job(load_job))


class _FailsBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: torch.Tensor) -> torch.Tensor:
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        raise RuntimeError("no kernel for this card")


def test_backward_pass_of_liger_that_would_fail_in_the_probe_is_refused_at_loading(
    load_job: LoadJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    def apply(model: Any, kernel_config: Any) -> None:
        forward = type(model).forward

        def lce_forward(self: Any, *args: Any, **kwargs: Any) -> Any:
            output = forward(self, *args, **kwargs)
            output.loss = _FailsBackward.apply(output.loss)
            return output

        lce_forward.__module__ = "liger_kernel.transformers.model.llama"
        model.forward = MethodType(lce_forward, model)

    monkeypatch.setattr(transformers_liger, "apply_liger_kernel", apply)
    with pytest.raises(LigerRefusedError, match="fails: no kernel for this card"):
        base_model.load_base(liger_job(load_job))
