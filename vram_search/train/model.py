"""Loads the resident base model once in NF4, and attaches and detaches adapters."""

from __future__ import annotations

import contextlib
import gc
import importlib.metadata
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import torch
from peft import LoraConfig, get_peft_model
from safetensors import SafetensorError
from transformers import AutoConfig, BitsAndBytesConfig
from transformers.integrations import liger as transformers_liger

from vram_search import __version__
from vram_search.errors import InputError, first_line
from vram_search.model_code.build import (
    TOO_NEW,
    auto_class,
    kept_in_fp32,
    load_config,
    quantized_names,
    read_values,
)
from vram_search.model_code.read import in_and_out
from vram_search.protocol import LoadJob, TrialJob
from vram_search.spec.hyperparameters import adapter_settings
from vram_search.tools import PEFT
from vram_search.train.device import compute_dtype, device, dtype_name
from vram_search.train.initial_adapter import InitialAdapter
from vram_search.train.liger_error import LigerRefusedError
from vram_search.train.load_faults import load_remedy
from vram_search.train.patches import (
    add_missing_image_outputs,
    clear_cublas_workspaces,
    logits_in_their_own_dtype,
    mark_as_4bit,
)

LIGER_TRIAL_TOKENS = 16
INITIAL_STD = 0.02
"""Standard deviation of random weights; their values do not change a byte."""
NO_CLASS = ("does not recognize this architecture", "contains custom code")
"""transformers' words for a model_type that it has no class for, without and with `auto_map`."""


def to_device(batch: dict[str, torch.Tensor], here: torch.device) -> dict[str, torch.Tensor]:
    """Copies the batch to the device without waiting for the copy to end."""
    if here.type != "cuda":
        return {name: tensor.to(here) for name, tensor in batch.items()}
    return {name: t.pin_memory().to(here, non_blocking=True) for name, t in batch.items()}


def with_type_ids(model: Any, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Adds the inputs that tell text from images, which some models of several parts need in
    training (`token_type_ids` of Gemma 3, `mm_token_type_ids` of Gemma 4): all of it is text."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    config = base.config
    if config.get_text_config(decoder=True) is config:
        return batch
    accepted = inspect.signature(type(base).forward).parameters
    types = {
        name: torch.zeros_like(batch["input_ids"])
        for name in ("token_type_ids", "mm_token_type_ids")
        if name in accepted
    }
    return {**batch, **types}


def limit_allocator(cap_bytes: int | None) -> None:
    """Makes the allocator refuse requests beyond `cap_bytes`, as a smaller card would; GPU only.

    torch multiplies the fraction by CUDA's total, so the fraction is of that total, not of NVML's.
    """
    if cap_bytes is not None and torch.cuda.is_available():
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, cap_bytes / total), 0)


def load_base(job: LoadJob) -> Any:
    """Loads the frozen base model to the device in NF4 with double quantisation.

    Raises:
        InputError: the model cannot be loaded.
    """
    dtype = compute_dtype()
    if job.random_weights:
        base = random_base(Path(job.model_name_or_path), dtype, job.seed)
    else:
        base = _pretrained_base(job.model_name_or_path, dtype)
    add_missing_image_outputs(base)
    keep_weights_as_quantised(base)
    base.requires_grad_(False)
    if job.enable_liger_kernel:
        apply_liger(base)
    base.config.use_cache = False
    base.config.get_text_config(decoder=True).use_cache = False
    return base


def keep_weights_as_quantised(base: Any) -> None:
    """Switches off bitsandbytes' repacking of the weights for inference.

    On CPUs with AVX512-BF16 the first forward pass of a `Linear4bit` in evaluation mode repacks its
    weight, and training through it gives gradients of 0 afterwards (bitsandbytes `nn/modules.py`,
    `Linear4bit.forward`).
    """
    for module in base.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False


def _pretrained_base(model_name_or_path: str, dtype: torch.dtype) -> Any:
    try:
        config = AutoConfig.from_pretrained(model_name_or_path, trust_remote_code=False)
        base, loaded = auto_class(config).from_pretrained(
            model_name_or_path,
            dtype=dtype,
            **_quantization(config, dtype),
            device_map={"": device()},
            attn_implementation=attention(config),
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are in the loading info then
        )
    except torch.OutOfMemoryError:
        raise
    except (OSError, ValueError, SafetensorError) as error:
        remedy = load_remedy(
            error,
            model_name_or_path,
            "a folder with config.json and *.safetensors, or a hub name that can be reached; is "
            "the download complete?",
        )
        if any(words in str(error) for words in NO_CLASS):
            remedy = TOO_NEW
        raise InputError(
            f"the model {model_name_or_path} cannot be loaded: {first_line(error)}", remedy
        ) from None
    refuse_random_weights(model_name_or_path, loaded)
    return base


def _quantization(config: Any, dtype: torch.dtype) -> dict[str, Any]:
    """Returns the arguments of `from_pretrained` that make NF4 of plain weights. A checkpoint in 4
    bits of bitsandbytes keeps its own format, and computes in the dtype of this device."""
    stored = getattr(config, "quantization_config", None)
    if stored is None:
        nf4 = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
        return {"quantization_config": nf4}
    config.quantization_config = {**stored, "bnb_4bit_compute_dtype": dtype_name(dtype)}
    return {"config": config}


def attention(config: Any) -> str:
    """Returns the implementation of attention: sdpa, or eager where the class has no other."""
    model_class = auto_class(config)._model_mapping[type(config)]
    return "sdpa" if model_class._supports_sdpa else "eager"


def refuse_random_weights(model_name_or_path: str, loaded: dict[str, Any]) -> None:
    """Refuses files that lack weights; transformers would fill these with random numbers."""
    lacking = sorted(loaded["missing_keys"])
    misfits = sorted(name for name, *_ in loaded["mismatched_keys"])
    if names := lacking or misfits:
        fault = "are missing in its files" if lacking else "are of another size than in its files"
        raise InputError(
            f"the model {model_name_or_path} cannot be loaded: {len(names)} weights {fault}, "
            f"{names[0]} for example",
            "config.json and *.safetensors belong to one model; is the download complete?",
        )


def apply_liger(base: Any) -> None:
    """Patches the base with Liger's kernels, including the fused linear cross entropy.

    The kernels stay: transformers patches an instance again at each `Trainer.train` and never
    removes the patch, so either all trials of a process run with them or no trial does.

    Raises:
        LigerRefusedError: the package is missing, does not know the model, or fails.
    """
    try:
        transformers_liger.apply_liger_kernel(base, None)
    except ImportError:
        raise LigerRefusedError(
            "plan.enable_liger_kernel needs the package liger-kernel",
            "pip install liger-kernel, or set plan.enable_liger_kernel to false",
        ) from None
    if not uses_liger(base):
        raise LigerRefusedError(
            f"liger-kernel has no fused cross entropy for {type(base).__name__}",
            "set plan.enable_liger_kernel to false",
        )
    _try_step(base)


def _try_step(base: Any) -> None:
    """Runs Liger's forward and backward pass on a few tokens, as the probe would; some models' fail
    without an image.

    Raises:
        LigerRefusedError: it fails.
    """
    tokens = torch.ones((1, LIGER_TRIAL_TOKENS), dtype=torch.int64, device=device())
    batch = with_type_ids(base, {"input_ids": tokens, "labels": tokens})
    dtype, was_training = compute_dtype(), base.training
    base.train()  # Liger fuses the loss in training alone
    base.enable_input_require_grads()
    try:
        with torch.autocast(device().type, dtype=dtype, enabled=dtype != torch.float32):
            loss = base(**batch).loss
        loss.backward()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # a patched forward may fail in any way
        raise LigerRefusedError(
            f"a training step of {type(base).__name__} with liger-kernel fails: "
            f"{first_line(error)}",
            "set plan.enable_liger_kernel to false",
        ) from None
    finally:
        base.disable_input_require_grads()
    base.train(was_training)


def uses_liger(base: Any) -> bool:
    """Returns True if the forward pass is Liger's (`liger_kernel/transformers/monkey_patch.py`)."""
    return base.forward.__module__.startswith("liger_kernel.")


def random_base(config_path: Path, dtype: torch.dtype, seed: int) -> Any:
    """Builds a config's model with random weights, quantised layer by layer on the device.

    Every tensor has the dtype and size that `from_pretrained` gives it, so bytes are exact.

    Raises:
        InputError: the installed transformers has no class for the model.
    """
    load_config(read_values(config_path), str(config_path))
    config = AutoConfig.from_pretrained(config_path, trust_remote_code=False)
    torch.manual_seed(seed)
    with _uninitialised():
        model = auto_class(config).from_config(
            config, dtype=dtype, attn_implementation=attention(config), trust_remote_code=False
        )
    here = device()
    stays_in_fp32 = kept_in_fp32(model)
    for name in quantized_names(model):
        module = model.get_submodule(name)
        model.set_submodule(name, _random_linear4bit(module, dtype, here))
    for name, parameter in model.named_parameters():
        if not isinstance(parameter, bnb.nn.Params4bit):
            scale = INITIAL_STD if parameter.ndim > 1 else 0.0
            kept = torch.float32 if stays_in_fp32(name) else dtype
            values = torch.empty(parameter.shape, dtype=kept, device=here).normal_(0.0, 1.0)
            parameter.data = values * scale if scale else torch.ones_like(values)
    model.tie_weights()
    model.to(here)
    mark_as_4bit(model)
    return model


@contextlib.contextmanager
def _uninitialised() -> Iterator[None]:
    """Lets modules be built without drawing weights; memory that is never touched costs nothing."""
    from transformers.initialization import no_init_weights

    with no_init_weights():
        yield


def _random_linear4bit(linear: Any, dtype: torch.dtype, here: torch.device) -> Any:
    inputs, outputs = in_and_out(linear)
    quantised = bnb.nn.Linear4bit(
        inputs,
        outputs,
        bias=linear.bias is not None,
        compute_dtype=dtype,
        compress_statistics=True,
        quant_type="nf4",
        device="meta",
    )
    weight = torch.empty((outputs, inputs), dtype=dtype, device=here).normal_(0.0, INITIAL_STD)
    quantised.weight = bnb.nn.Params4bit(
        weight, requires_grad=False, compress_statistics=True, quant_type="nf4", module=quantised
    ).to(here)
    if linear.bias is not None:
        quantised.bias = torch.nn.Parameter(torch.zeros(outputs, dtype=dtype))
    return quantised


def attach_adapter(base: Any, job: TrialJob) -> Any:
    """Attaches a new LoRA adapter (fp32 weights) to the base model.

    peft's `prepare_model_for_kbit_training` is not called: it turns the embeddings into fp32, which
    costs 2 bytes per embedding parameter. LLaMA-Factory does not do this either.
    """
    wants_liger = job.plan.enable_liger_kernel
    assert uses_liger(base) == wants_liger, "the load job and the plan agree on Liger"
    hp = job.hyperparameters
    settings = adapter_settings(hp)
    initial = settings.pop("init_lora_weights", None)
    torch.manual_seed(job.seed)
    config = LoraConfig(
        **PEFT.written(settings),
        target_modules=list(job.target_modules),
        bias="none",
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(base, config)
    assert not config.target_parameters, "peft trains experts in place of layers that were planned"
    if initial is not None:
        model.initial_adapter = InitialAdapter(model, initial)
    return model


def detach_adapter(model: Any) -> Any:
    """Removes the adapter and returns the base model as it was before `attach_adapter`."""
    if (initial := initial_adapter(model)) is not None:
        initial.restore()
    base = model.unload()
    if hasattr(base, "peft_config"):
        del base.peft_config
    base.gradient_checkpointing_disable()
    return base


def initial_adapter(model: Any) -> InitialAdapter | None:
    """Returns the start of the model's PiSSA or OLoRA adapter; None for other adapters."""
    found: InitialAdapter | None = vars(model).get("initial_adapter")
    return found


def trainable_parameters(model: Any) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@contextlib.contextmanager
def evaluation_mode(model: Any) -> Iterator[None]:
    """Sets evaluation mode, and keeps the logits' own dtype."""
    was_training = model.training
    model.eval()
    try:
        with logits_in_their_own_dtype(model):
            yield
    finally:
        model.train(was_training)


def allocated_bytes() -> int | None:
    return torch.cuda.memory_allocated() if torch.cuda.is_available() else None


def keep_loaded() -> None:
    """Excludes libraries and base from later garbage collections; both stay to the end.

    Each trial collects garbage three times (`free_caches`, and twice accelerate's
    `utils/memory.py`), which took 0.2 to 0.5 s of CPU time each.
    """
    gc.collect()  # what loading leaves behind must not stay
    gc.freeze()


def free_caches() -> None:
    """Frees memory without references and cuBLAS's workspaces (65 MiB on an H200)."""
    gc.collect()
    if torch.cuda.is_available():
        clear_cublas_workspaces()
        torch.cuda.empty_cache()


def versions() -> dict[str, str]:
    """Returns the versions of the packages that the loss and the bytes depend on."""
    found = {"vram-search": __version__}
    for package in ("torch", "transformers", "peft", "bitsandbytes", "accelerate"):
        found[package] = importlib.metadata.version(package)
    if torch.version.cuda:
        found["cuda"] = torch.version.cuda
    return found
