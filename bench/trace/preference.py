"""Compares predicted bytes of preference training with those of the tools' own loss code.

    PYTHONPATH=$PWD:UNPACKED_TRL python -m bench.trace.preference [--model SLUG ...]

The trainings run on fake tensors, as in `bench.trace.check`; the losses are those of
`bench.preference_losses`. TRL's rows are left out where TRL cannot be imported.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any
from unittest import mock

import torch
from torch import nn

from bench.preference_losses import Loss, losses, trl_has_whole_logits
from bench.trace import check, fake_training
from vram_search.estimate.memory.workload import Workload
from vram_search.trace import cuda_kernels, recorder
from vram_search.units import MIB

aten = torch.ops.aten


@contextmanager
def _as_in_losses() -> Iterator[None]:
    """Masks choose every token, so that their sizes do not depend on values, and CUDA's log-softmax
    copies a slice first (ATen/native/cuda/SoftMax.cu, `host_softmax`)."""
    run, scratch = cuda_kernels.run_operation, cuda_kernels.scratch_bytes

    def with_copies(function: Any, args: Any) -> list[int]:
        if function is aten._log_softmax.default and not args[0].is_contiguous():
            return [args[0].nbytes]
        return scratch(function, args)

    def choose_all(kernels: Any, function: Any, args: Any, kwargs: Any, *, padded: bool) -> Any:
        if function is aten.index.Tensor:
            mask = args[1][0]
            if mask is not None and mask.dtype == torch.bool:
                return args[0].new_empty((mask.numel(), *args[0].shape[mask.dim() :]))
        return run(kernels, function, args, kwargs, padded=padded)

    with (
        mock.patch.object(recorder, "run_operation", choose_all),
        mock.patch.object(recorder, "scratch_bytes", with_copies),
    ):
        yield


@contextmanager
def _as_triton() -> Iterator[None]:
    """TRL's tiles as on a card: Triton folds them in place."""
    if not find_spec("trl") or trl_has_whole_logits():
        yield
        return
    from trl.kernels import chunked_logprob
    from trl.trainer import utils

    def in_place(*_: Any, **__: Any) -> None:
        pass

    with (
        mock.patch.object(utils, "_use_triton", lambda _: True),
        mock.patch.object(chunked_logprob, "_forward_tile", in_place),
        mock.patch.object(chunked_logprob, "_backward_tile", in_place),
        mock.patch.object(chunked_logprob, "_addmm_fp32", in_place),
    ):
        yield


@contextmanager
def _with_loss(loss: Loss) -> Iterator[None]:
    """`bench.trace.fake_training` with another loss in place of cross entropy."""

    def step(model: nn.Module, optimizer: torch.optim.Optimizer, workload: Workload) -> None:
        for _ in range(workload.gradient_accumulation_steps):
            loss(model, workload).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        model.zero_grad()

    with mock.patch.object(fake_training, "_step", step):
        yield


def compare(model: str, objective: str, loss: Loss, **changes: Any) -> check.Result:
    """Predicts and traces one training with a preference loss."""
    case = check.varied(check.plain(model), objective, objective=objective, **changes)
    with _with_loss(loss), _as_in_losses(), _as_triton():
        return check.check(case)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", action="append", choices=check.MODELS)
    parser.add_argument("--loss", action="append", choices=list(losses()), help="these alone")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    print("| model | loss | predicted MiB | traced MiB | difference |")
    print("| --- | --- | ---: | ---: | ---: |")
    for model in arguments.model or ("qwen2.5-1.5b", "llama-3.2-1b"):
        for objective, loss in losses().items():
            if arguments.loss and objective not in arguments.loss:
                continue
            for sizes in ((2, 512), (1, 1024)):
                changes = {"per_device_train_batch_size": sizes[0], "cutoff_len": sizes[1]}
                result = compare(model, objective, loss, **changes)
                print(
                    f"| {model} | {objective} {sizes[0]} x {sizes[1]} "
                    f"| {result.predicted / MIB:.0f} | {result.traced / MIB:.0f} "
                    f"| {result.difference:+.2%} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
