"""Builds a model on fake tensors: the class's own modules, quantised as `from_pretrained` does."""

from __future__ import annotations

from typing import Any

import bitsandbytes
import torch
from bitsandbytes.functional import quantize_4bit
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from torch import Tensor, nn
from transformers import BitsAndBytesConfig
from transformers.initialization import no_init_weights
from transformers.quantizers.quantizer_bnb_4bit import Bnb4BitHfQuantizer
from transformers.quantizers.quantizer_bnb_8bit import Bnb8BitHfQuantizer

from vram_search.model_code.build import auto_class, load_config
from vram_search.tools import PEFT
from vram_search.trace.cuda_kernels import LLM_INT8_THRESHOLD
from vram_search.trace.settings import TraceSettings


def build_on_meta(values: dict[str, Any], settings: TraceSettings) -> Any:
    """The model of a config.json on the meta device, its linear layers bitsandbytes'.

    Raises:
        InputError: transformers cannot build it.
    """
    config = load_config(values, str(values.get("model_type")))
    config.use_cache = False
    config.get_text_config(decoder=True).use_cache = False
    with torch.device("meta"), no_init_weights():
        model = auto_class(config).from_config(
            config,
            dtype=torch.bfloat16,
            # sdpa is what a class takes by itself if it supports it
            attn_implementation=None if settings.attention == "sdpa" else settings.attention,
            trust_remote_code=False,
        )
        model.tie_weights()
    if settings.quantization != "none":
        # transformers `quantizers/base.py`; Jamba's and Falcon Mamba's layers ask for it
        model.config._is_quantized = True
        model.config.get_text_config(decoder=True)._is_quantized = True
    if settings.quantization == "nf4":
        nf4 = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=settings.double_quantization,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
        Bnb4BitHfQuantizer(nf4)._process_model_before_weight_loading(model, device_map=None)
        model.is_loaded_in_4bit = True
    elif settings.quantization == "int8":
        int8 = BitsAndBytesConfig(load_in_8bit=True)
        Bnb8BitHfQuantizer(int8)._process_model_before_weight_loading(model, device_map=None)
        model.is_loaded_in_8bit = True
    return model


def materialise(model: nn.Module, settings: TraceSettings) -> None:
    """Puts fake tensors in place of those of the meta device; runs under a FakeTensorMode."""
    made: dict[int, Any] = {}
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if id(parameter) not in made:
                made[id(parameter)] = _on_card(module, name, parameter, settings)
            module._parameters[name] = made[id(parameter)]
        for name, buffer in list(module.named_buffers(recurse=False)):
            module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False


def _on_card(module: nn.Module, name: str, parameter: Tensor, settings: TraceSettings) -> Any:
    is_weight = name == "weight"
    if is_weight and isinstance(module, bitsandbytes.nn.Linear4bit):
        double = settings.double_quantization
        packed, state = quantize_4bit(
            torch.empty(parameter.shape, dtype=torch.bfloat16),
            quant_type="nf4",
            compress_statistics=double,
        )
        weight = nn.Parameter(packed, requires_grad=False)
        weight.quant_state, weight.compress_statistics = state, double
        weight.quant_type = "nf4"
        return weight
    if is_weight and isinstance(module, bitsandbytes.nn.Linear8bitLt):
        plain = torch.empty(parameter.shape, dtype=torch.float16)
        module.state.CB, module.state.SCB, _ = bitsandbytes.functional.int8_vectorwise_quant(plain)
        module.state.threshold = LLM_INT8_THRESHOLD
        weight = nn.Parameter(module.state.CB, requires_grad=False)
        weight.CB = None
        return weight
    return nn.Parameter(torch.empty(parameter.shape, dtype=parameter.dtype), requires_grad=False)


def attach_adapter(model: Any, settings: TraceSettings) -> Any:
    """The model with its adapter, ready to train; runs under a FakeTensorMode."""
    if settings.prepare_for_kbit_training:
        model = prepare_model_for_kbit_training(
            model, use_gradient_checkpointing=settings.gradient_checkpointing
        )
    targets: Any = settings.lora_target
    lora = LoraConfig(
        r=settings.lora_rank,
        target_modules=list(targets) if isinstance(targets, tuple) else targets,
        task_type="CAUSAL_LM",
        **PEFT.written({"lora_dropout": settings.lora_dropout, "use_dora": settings.use_dora}),
    )
    model = get_peft_model(model, lora)
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable(
            {"use_reentrant": settings.reentrant_checkpointing, "preserve_rng_state": False}
        )
    return model.train()
