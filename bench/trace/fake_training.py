"""The allocator's requests over a QLoRA training, recorded from the real code without a GPU.

The model, its adapter and CUDA's kernels on fake tensors are `vram_search.trace`'s. Here all layers
are trained with a real optimizer, so that states and accumulated gradients are part of the stream.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import bitsandbytes
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from vram_search.estimate.memory.workload import Workload
from vram_search.trace.build import attach_adapter, build_on_meta, materialise
from vram_search.trace.cuda_kernels import as_on_cuda
from vram_search.trace.recorder import AllocationStream, Recorder
from vram_search.trace.settings import TraceSettings
from vram_search.trace.training import as_accelerate_prepares

STEPS = 2
"""Optimizer states appear in the first."""
OPTIMIZERS = {
    "adamw_torch_fused": partial(torch.optim.AdamW, fused=True),
    "adamw_8bit": bitsandbytes.optim.AdamW8bit,
}


def record(config: dict[str, Any], workload: Workload) -> AllocationStream:
    """The requests of `STEPS` optimizer steps of AdamW.

    Args:
        config: of the model, as in its `config.json`; `workload.shape` was parsed from it.
    """
    settings = TraceSettings(
        lora_target=workload.lora_modules,
        lora_rank=workload.lora_rank,
        gradient_checkpointing=workload.gradient_checkpointing,
        quantization=workload.quantization,
        double_quantization=workload.double_quantization,
        attention=workload.attention,
        prepare_for_kbit_training=workload.prepare_for_kbit_training,
        lora_dropout=workload.lora_dropout,
        use_dora=workload.use_dora,
    )
    model = build_on_meta(config, settings)
    mode = FakeTensorMode()
    recorder = Recorder(mode)
    with as_on_cuda(), mode, recorder:
        materialise(model, settings)
        model = attach_adapter(model, settings)
        as_accelerate_prepares(model)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = OPTIMIZERS[workload.optimizer](trained)
        recorder.stream.ready = len(recorder.stream.events)
        for _ in range(STEPS):
            _step(model, optimizer, workload)
        return AllocationStream(list(recorder.stream.events), ready=recorder.stream.ready)


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, workload: Workload) -> None:
    """transformers `Trainer.training_step`, then clipping and the optimizer."""
    for _ in range(workload.gradient_accumulation_steps):
        shape = (workload.per_device_train_batch_size, workload.cutoff_len)
        batch = {
            name: torch.zeros(shape, dtype=torch.int64)
            for name in ("input_ids", "labels", "attention_mask")
        }
        items = (batch["labels"] != -100).sum()
        loss = model(**batch, num_items_in_batch=items)["loss"]
        loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    model.zero_grad()
