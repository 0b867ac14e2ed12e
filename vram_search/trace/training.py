"""Runs trainings on fake tensors and records what each micro-batch allocates."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from types import MethodType
from typing import Any, Literal

import torch
from accelerate.utils.operations import convert_outputs_to_fp32
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from vram_search.spec.liger import liger_patches
from vram_search.trace.build import attach_adapter, build_on_meta, materialise
from vram_search.trace.cuda_kernels import as_on_cuda
from vram_search.trace.layers import (
    KeptLayers,
    decoder_as_one_layer,
    decoder_layers,
    keep_all,
    keep_few,
)
from vram_search.trace.liger import liger_kernels
from vram_search.trace.recorder import AllocationStream, Recorder, with_sums_in_place
from vram_search.trace.settings import Batch, TraceSettings

Kept = Literal["few", "all", "as one"]


@dataclass(frozen=True)
class Recording:
    """Requests of one micro-batch, and of an evaluation batch of the same size.

    Phases have names: "start", "f0" ... (forward of a layer), "head" (from the last layer to the
    start of the backward pass), "b1", "b0" ... (backward of a layer), "end". A fused loss splits
    "head" (`vram_search.trace.liger`).
    """

    batch: Batch
    training: AllocationStream
    evaluation: AllocationStream


class TracedModel:
    """A few layers of a model with their adapter, on fake tensors, ready to train."""

    def __init__(
        self, model: Any, layers: nn.ModuleList, kept: KeptLayers, recorder: Recorder
    ) -> None:
        self.kept = kept
        self._model, self._layers, self._recorder = model, layers, recorder

    def record(self, batch: Batch) -> Recording:
        """Records a micro-batch and an evaluation batch."""
        recorder, model = self._recorder, self._model
        with _marking(self._layers, recorder):
            stream = recorder.restart()
            stream.mark("start")
            _train(model, batch)
            stream.mark("end")
            training = _copy(stream)
            model.zero_grad()
            stream = recorder.restart()
            stream.mark("start")
            _evaluate(model, _inputs(batch))
            return Recording(batch, training, _copy(stream))

    def warm_up(self, batch: Batch) -> int:
        """Evaluates a batch and returns how many requests it makes. In its first forward pass a
        quantised layer casts its bias."""
        stream = self._recorder.restart()
        _evaluate(self._model, _inputs(batch))
        return sum(size >= 0 for size, _ in stream.events)

    @property
    def depends_on_routing(self) -> bool:
        """True if experts have taken bytes by the tokens that the router gave them."""
        return self._recorder.routing.was_asked

    def set_routing(self, *, worst: bool) -> None:
        """Sends all tokens to the same experts, or equally many to each."""
        self._recorder.routing.worst = worst

    def set_rank(self, rank: int) -> None:
        """Gives all adapters another rank."""
        for module in self._model.modules():
            if not isinstance(module, LoraLayer):
                continue
            for parts, is_down in ((module.lora_A, True), (module.lora_B, False)):
                for linear in parts.values():
                    rows, columns = linear.weight.shape
                    shape = (rank, columns) if is_down else (rows, rank)
                    linear.weight = nn.Parameter(torch.empty(shape, dtype=linear.weight.dtype))


@contextmanager
def traced_model(
    config: dict[str, Any], settings: TraceSettings, kept_layers: Kept = "few"
) -> Iterator[TracedModel]:
    """Builds a model on fake tensors; they live until the context ends.

    Args:
        config: of the model, as in its `config.json`.
        kept_layers: one of each kind, all layers, or all of them as one layer.
    """
    model = build_on_meta(config, settings)
    layers = decoder_as_one_layer(model) if kept_layers == "as one" else decoder_layers(model)
    kept = keep_few(model, layers) if kept_layers == "few" else keep_all(layers)
    mode = FakeTensorMode()
    recorder = Recorder(mode, padded=settings.padded)
    with as_on_cuda(prefers_cudnn=settings.prefers_cudnn), mode, recorder:
        materialise(model, settings)
        model = attach_adapter(model, settings)
        with _with_liger(model.get_base_model(), layers, settings, recorder):
            as_accelerate_prepares(model)
            yield TracedModel(model, layers, kept, recorder)


def _with_liger(
    model: Any, layers: nn.ModuleList, settings: TraceSettings, recorder: Recorder
) -> AbstractContextManager[None]:
    text = model.config.get_text_config(decoder=True)
    patches = liger_patches(model.config.model_type, text.model_type)
    if patches is None or not settings.use_liger_kernel:
        return nullcontext()
    return liger_kernels(model, layers, patches, recorder)


def _copy(stream: AllocationStream) -> AllocationStream:
    events, marks, sums = list(stream.events), list(stream.marks), list(stream.sums)
    return with_sums_in_place(AllocationStream(events, marks, stream.ready, sums))


def _inputs(batch: Batch) -> dict[str, Tensor]:
    shape = (batch.rows, batch.tokens)
    return {name: torch.zeros(shape, dtype=torch.int64) for name in ("input_ids", "attention_mask")}


def _of_other_modalities(model: Any) -> tuple[str, ...]:
    """Inputs that a wrapper asks for in training on text alone."""
    parameters = inspect.signature(model.get_base_model().forward).parameters
    return tuple(name for name in ("token_type_ids", "mm_token_type_ids") if name in parameters)


def _train(model: Any, batch: Batch) -> None:
    """transformers `Trainer.training_step`."""
    inputs = _inputs(batch)
    for name in ("labels", *_of_other_modalities(model)):
        inputs[name] = torch.zeros_like(inputs["input_ids"])
    if _accepts_loss_kwargs(model):
        inputs["num_items_in_batch"] = (inputs["labels"] != -100).sum()
    loss = model(**inputs)["loss"]
    loss.backward()


def _evaluate(model: Any, inputs: dict[str, Tensor]) -> None:
    """As `train.evaluate` runs it: without gradients, logits in their own dtype."""
    model.eval()
    prepared, model.forward = model.forward, MethodType(type(model).forward, model)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits = model(**inputs).logits
        del logits
    model.forward = prepared
    model.train()


def as_accelerate_prepares(model: nn.Module) -> None:
    """accelerate `Accelerator.prepare_model`: bf16 autocast, outputs in fp32."""
    forward = torch.autocast("cpu", torch.bfloat16)(type(model).forward)
    model.forward = MethodType(convert_outputs_to_fp32(forward), model)


def _accepts_loss_kwargs(model: Any) -> bool:
    """transformers `Trainer.__init__`, `model_accepts_loss_kwargs`."""
    base = model.get_base_model()
    accepts = getattr(base, "accepts_loss_kwargs", None)
    if accepts is not None:
        return bool(accepts)
    parameters = inspect.signature(base.forward).parameters.values()
    return any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters)


@contextmanager
def _marking(layers: nn.ModuleList, recorder: Recorder) -> Iterator[None]:
    """Marks where a layer's forward and backward pass begin."""

    def forward(place: int) -> Any:
        def mark(*_: Any) -> None:
            if torch._C._current_graph_task_id() == -1:
                recorder.stream.mark(f"f{place}")

        return mark

    def behind(place: int) -> Any:
        def mark(_module: Any, _inputs: Any, output: Any) -> None:
            hidden = output if isinstance(output, Tensor) else output[0]
            if torch._C._current_graph_task_id() != -1:
                return
            if place == len(layers) - 1:
                recorder.stream.mark("head")
            if hidden.requires_grad:
                hidden.register_hook(lambda _: recorder.stream.mark(f"b{place}"))

        return mark

    handles = [layer.register_forward_pre_hook(forward(i)) for i, layer in enumerate(layers)]
    handles += [layer.register_forward_hook(behind(i)) for i, layer in enumerate(layers)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
