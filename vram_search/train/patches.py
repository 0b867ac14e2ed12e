"""Holds every use of third-party internals: patched attributes and private functions.

Each function names the library, the versions that it was read in, and the upstream issue or file.
It raises `InternalsChangedError` if the internals no longer exist.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from vram_search.errors import VramSearchError

NEWEST_READ = {"torch": "2.13.0", "accelerate": "1.15.0", "bitsandbytes": "0.50.2"}
"""The newest versions in which these internals were read."""


class InternalsChangedError(VramSearchError):
    """A library lacks an internal that the training relies on."""

    def __init__(self, package: str, name: str) -> None:
        super().__init__(
            f"{package} {importlib.metadata.version(package)} has no {name} any more",
            f"pip install '{package}<={NEWEST_READ[package]}', and report this",
        )


def _internal(owner: Any, name: str, package: str) -> Any:
    """Returns an attribute of a library's object.

    Raises:
        InternalsChangedError: the attribute does not exist.
    """
    try:
        return getattr(owner, name)
    except AttributeError:
        raise InternalsChangedError(package, f"{owner.__name__}.{name}") from None


@contextmanager
def steps_in_the_background(*, is_paged: bool) -> Iterator[None]:
    """Runs bitsandbytes' optimizers without waiting for the card after every tensor.

    With LoRA on every linear layer of a 3B model that is 504 waits a step (`optim/optimizer.py`,
    `Optimizer8bit.step`). The kernels run in torch's stream, in order; only paged states need the
    wait. bitsandbytes 0.49 to 0.50; pull request bitsandbytes-foundation/bitsandbytes#2050.
    """
    from bitsandbytes.optim import optimizer as bnb_optimizer

    wait = _internal(bnb_optimizer, "sync_gpu", "bitsandbytes")
    if not is_paged:
        bnb_optimizer.sync_gpu = lambda tensor: None
    try:
        yield
    finally:
        bnb_optimizer.sync_gpu = wait


@contextmanager
def logits_in_their_own_dtype(model: Any) -> Iterator[None]:
    """Restores the forward pass that a model had before a Trainer prepared it.

    A prepared model converts its logits to fp32, which takes three times their bytes
    (accelerate `accelerator.py`, `Accelerator.prepare_model`). accelerate 1.10 to 1.15; issue
    huggingface/accelerate#3477. A forward pass of other packages, such as Liger's, is kept.
    """
    prepared = vars(model).get("forward")
    if prepared is None or not prepared.__module__.startswith("accelerate."):
        yield
        return
    if "_original_forward" not in vars(model):
        raise InternalsChangedError("accelerate", "_original_forward on a prepared model")
    model.forward = model._original_forward
    try:
        yield
    finally:
        model.forward = prepared


@contextmanager
def without_noise_afterwards(model: Any) -> Iterator[None]:
    """Removes the forward hooks that a training adds to the embeddings (NEFTune's noise).

    transformers removes its hook only if the training comes to its end (`trainer.py`,
    `_finalize_training`); the base model serves other trials afterwards. transformers 5.24.
    """
    hooks = model.get_input_embeddings()._forward_hooks
    before = set(hooks)
    try:
        yield
    finally:
        for added in set(hooks) - before:
            del hooks[added]


def mark_as_4bit(model: Any) -> None:
    """Sets the attribute by which peft chooses its 4-bit LoRA layers.

    transformers' quantizer sets it too (`quantizers/quantizer_bnb_4bit.py`). peft 0.18 to 0.21,
    `tuners/lora/model.py`; `tests/train` checks the layers that it leads to.
    """
    model.is_loaded_in_4bit = True


def add_missing_image_outputs(base: Any) -> None:
    """Gives the outputs of a text model an `image_outputs` of None, if its wrapper reads one.

    `Llama4ForConditionalGeneration.forward` fails without it, also for a text with an image.
    transformers 5.24, `models/llama4/modeling_llama4.py`; harmless where the class has the field.
    """
    from transformers.modeling_outputs import MoeCausalLMOutputWithPast

    if base.config.model_type == "llama4" and not hasattr(
        MoeCausalLMOutputWithPast, "image_outputs"
    ):
        MoeCausalLMOutputWithPast.image_outputs = None


def forget_quantization(model: Any) -> None:
    """Makes a model that was read from a GGUF file count as one of plain weights.

    Its weights are dequantised, but `save_pretrained` refuses it (transformers
    `modeling_utils.py`). transformers 5.17 to 5.24; pull request huggingface/transformers#44794.
    """
    del model.config.quantization_config
    model.hf_quantizer = None


def clear_cublas_workspaces() -> None:
    """Frees cuBLAS's workspaces, which the next matrix product allocates again.

    torch 2.11 to 2.13; issue pytorch/pytorch#184084.
    """
    _internal(torch._C, "_cuda_clearCublasWorkspaces", "torch")()


def record_memory_history(max_entries: int) -> None:
    """Starts a new history of the CUDA allocator, with Python's stack for each allocation.

    torch 2.11 to 2.13, `cuda/memory.py`; https://docs.pytorch.org/docs/stable/torch_cuda_memory.html.
    """
    _internal(torch.cuda.memory, "_record_memory_history", "torch")(
        "all", context="alloc", stacks="python", max_entries=max_entries, clear_history=True
    )


def stop_memory_history() -> None:
    """Ends the history that `record_memory_history` started."""
    _internal(torch.cuda.memory, "_record_memory_history", "torch")(None)


def memory_snapshot() -> dict[str, Any]:
    """Returns the CUDA allocator's segments and its history since `record_memory_history`."""
    snapshot: dict[str, Any] = _internal(torch.cuda.memory, "_snapshot", "torch")()
    return snapshot
