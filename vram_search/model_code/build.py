"""Builds a configuration's model on the meta device, quantised as `from_pretrained` does it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    BitsAndBytesConfig,
)
from transformers.core_model_loading import build_glob_alternation
from transformers.initialization import no_init_weights
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.quantizer_bnb_4bit import Bnb4BitHfQuantizer
from transformers.quantizers.quantizers_utils import should_convert_module

from vram_search.errors import InputError, first_line
from vram_search.spec.not_trained import CANNOT_BUILD, NO_LANGUAGE_MODEL, NO_MODEL_TYPE

AUTO_CLASSES = (AutoModelForImageTextToText, AutoModelForCausalLM, AutoModelForMultimodalLM)
"""In the order of LLaMA-Factory 0.9.5 (`model/loader.py`): a model of text and images is loaded
whole, so that its adapters carry the names that LLaMA-Factory's do."""

TOO_NEW = (
    "a newer transformers may know it: pip install -U transformers; code that came with a model is "
    "never run here"
)


def read_values(path: Path) -> dict[str, Any]:
    """Returns the mapping in a config.json, or in the one of a folder."""
    file = path / "config.json" if path.is_dir() else path
    values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return values


def load_config(values: dict[str, Any], place: str) -> Any:
    """Makes a config.json's own configuration class, which fills in what the file leaves out.

    Raises:
        InputError: transformers has no class for it, or the class refuses it.
    """
    model_type = values.get("model_type")
    others = {key: value for key, value in values.items() if key != "model_type"}
    try:
        return AutoConfig.for_model(model_type, **others)
    except ValueError as error:
        if "Unrecognized model identifier" in str(error):
            message = f"{place}: {NO_MODEL_TYPE} {model_type!r}"
            raise InputError(message, TOO_NEW) from None
        raise refused(place, error) from None
    except Exception as error:  # a class may refuse a field in any way
        raise refused(place, error) from None


def refused(place: str, error: Exception) -> InputError:
    """Returns transformers' refusal of a configuration as one sentence."""
    return InputError(
        f"{place}: {CANNOT_BUILD}: {first_line(error)}",
        "compare the field with the config.json of the model's publisher",
    )


def auto_class(config: Any) -> Any:
    """Returns the auto class that loads a model with its head.

    Raises:
        InputError: none does.
    """
    for candidate in AUTO_CLASSES:
        if type(config) in candidate._model_mapping:
            return candidate
    raise InputError(
        f"{NO_LANGUAGE_MODEL} for model_type {config.model_type!r}",
        "a causal language model is expected, or a model of text and images with one inside",
    )


def build(config: Any, dtype: torch.dtype = torch.bfloat16) -> Any:
    """Builds a configuration's model on the meta device and quantises it in NF4.

    Raises:
        InputError: transformers cannot build it.
    """
    chosen = auto_class(config)
    skipped = _skipped_modules(config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    try:
        with torch.device("meta"), no_init_weights():
            model = chosen.from_config(config, dtype=dtype, trust_remote_code=False)
            model.tie_weights()
    except (
        Exception
    ) as error:  # a package may be missing, or the class refuses its configuration in any way
        raise refused(config.model_type, error) from None
    _check_embedding(model)
    quantize(model, dtype, skipped)
    return model


def _check_embedding(model: Any) -> None:
    """Refuses a class without an embedding of text: Qwen 2.5 Omni's holds a thinker and a talker.

    Raises:
        InputError: the class has no text embedding of its own.
    """
    try:
        model.get_input_embeddings()
    except NotImplementedError:
        raise InputError(
            f"the class of {model.config.model_type} has no embedding of text, so it is not "
            "trained on rows of text",
            "if it holds several models, name a folder of the language model alone (of an Omni "
            "model the thinker: `model.thinker.save_pretrained(folder)`)",
        ) from None


def quantize(model: Any, dtype: torch.dtype, skipped: list[str] | None) -> None:
    """Replaces the linear layers that transformers loads in NF4 by bitsandbytes' (on meta)."""
    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=skipped,
    )
    Bnb4BitHfQuantizer(settings)._process_model_before_weight_loading(model, device_map=None)


def quantized_names(model: Any) -> list[str]:
    """Returns the names of the linear layers that transformers quantises when it loads a model
    (`integrations/bitsandbytes.py`, `replace_with_bnb_linear`)."""
    kept = Bnb4BitHfQuantizer.get_modules_to_not_convert(model, None, model._keep_in_fp32_modules)
    return [
        name
        for name, module in model.named_modules()
        if (type(module) is torch.nn.Linear or isinstance(module, Conv1D))
        and should_convert_module(name, kept)
    ]


def kept_in_fp32(model: Any) -> Callable[[str], bool]:
    """Returns whether loading keeps a parameter in fp32 (`_keep_in_fp32_modules_strict`)."""
    plan = model._get_dtype_plan(torch.bfloat16)
    if not plan:
        return lambda name: False
    pattern = build_glob_alternation(list(plan))[0]
    return lambda name: pattern.search(name) is not None


def _skipped_modules(config: Any) -> list[str] | None:
    """Returns the modules that an NF4 checkpoint keeps in 16 bits; None if it does not say."""
    quantization = getattr(config, "quantization_config", None) or {}
    if not isinstance(quantization, dict):
        quantization = quantization.to_dict()
    named = quantization.get("llm_int8_skip_modules")
    return list(named) if named else None
