"""Starts an adapter from the base's own weights (PiSSA, OLoRA), and undoes it after the trial.

Both take a part of rank r out of each weight and train that part; the base keeps the remainder,
quantised again. peft does this for OLoRA on NF4 (`tuners/lora/layer.py`, `olora_init`) and refuses
PiSSA there (`pissa_init`); here PiSSA's weights are dequantised first, as OLoRA's are. Papers:
https://arxiv.org/abs/2404.02948 and https://arxiv.org/abs/2406.01775.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import torch
from peft.tuners.lora.layer import LoraLayer
from peft.utils.integrations import dequantize_module_weight
from safetensors.torch import load_file, save_file

from vram_search.train.adapter_weights import ADAPTER_FILE

PISSA = "pissa_niter_16"
"""Randomised SVD with 16 iterations, LLaMA-Factory's default (`pissa_iter`); a full SVD of every
layer takes minutes."""
NAME = "default"
"""peft's name of the only adapter."""


@dataclass(frozen=True)
class ChangedLayer:
    """One layer as it was before, and the matrices with which its adapter started.

    Attributes:
        weight: the base's weight; on a GPU its copy in main memory.
        start_a, start_b: (rank, inputs) and (outputs, rank), fp32, in main memory.
    """

    linear: Any
    weight: Any
    data: torch.Tensor
    start_a: torch.Tensor
    start_b: torch.Tensor


class InitialAdapter:
    """The start of a PiSSA or OLoRA adapter; `restore` gives the base its weights back.

    Args:
        model: a peft model with a new LoRA adapter.
        method: `pissa` or `olora`.
    """

    def __init__(self, model: Any, method: str) -> None:
        self.layers: dict[str, ChangedLayer] = {}
        try:
            with torch.no_grad():
                for name, layer in _lora_layers(model):
                    self.layers[name] = _start(layer, method)
        except BaseException:
            self.restore()
            raise

    def restore(self) -> None:
        """Puts the base's own weights back, bit by bit."""
        for layer in self.layers.values():
            here = layer.linear.weight.device
            if isinstance(layer.weight, bnb.nn.Params4bit):
                layer.linear.weight = layer.weight.to(here)
                layer.linear.quant_state = layer.linear.weight.quant_state
            else:
                layer.linear.weight = layer.weight
                layer.linear.weight.data = layer.data.to(here)
        self.layers.clear()

    def write_plain(self, folder: Path) -> None:
        """Turns a saved adapter into a plain LoRA of twice the rank for the unchanged base.

        The new matrices minus the first ones are the change, as peft's
        `path_initial_model_for_weight_conversion` computes it. The remainder's rounding to NF4 is
        left out: the result belongs to the base as it was loaded.
        """
        config_file = folder / "adapter_config.json"
        config = json.loads(config_file.read_text(encoding="utf-8"))
        root = config["r"] ** 0.5 if config["use_rslora"] else config["r"]
        scaling = config["lora_alpha"] / root
        tensors = load_file(folder / ADAPTER_FILE)
        for name, layer in self.layers.items():
            a, b = f"{name}.lora_A.weight", f"{name}.lora_B.weight"
            tensors[a] = torch.cat([tensors[a], layer.start_a])
            tensors[b] = scaling * torch.cat([tensors[b], -layer.start_b], dim=1)
        rank = 2 * config["r"]
        config |= {"r": rank, "lora_alpha": rank, "use_rslora": False}
        save_file(tensors, folder / ADAPTER_FILE, metadata={"format": "pt"})
        config_file.write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")


def _lora_layers(model: Any) -> Iterator[tuple[str, Any]]:
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer) and NAME in module.lora_A:
            yield name, module


def _start(layer: Any, method: str) -> ChangedLayer:
    linear = layer.get_base_layer()
    weight, data = linear.weight, linear.weight.data
    if method == "olora":
        layer.olora_init(NAME)
    else:
        _start_pissa(layer)
    if isinstance(weight, bnb.nn.Params4bit):
        # The remainder came from fp32; layers would otherwise dequantise it to fp32.
        linear.weight.quant_state.dtype = weight.quant_state.dtype
    if isinstance(weight, bnb.nn.Params4bit) and weight.device.type != "cpu":
        weight = weight.to("cpu")
        data = weight.data
    return ChangedLayer(
        linear,
        weight,
        data.to("cpu"),
        layer.lora_A[NAME].weight.detach().to("cpu", copy=True),
        layer.lora_B[NAME].weight.detach().to("cpu", copy=True),
    )


def _start_pissa(layer: Any) -> None:
    linear = layer.get_base_layer()
    weight = linear.weight
    if not isinstance(weight, bnb.nn.Params4bit):
        layer.pissa_init(NAME, PISSA)
        return
    whole = dequantize_module_weight(linear).to(torch.float32)
    linear.weight = torch.nn.Parameter(whole, requires_grad=False)
    layer.pissa_init(NAME, PISSA)
    remainder = linear.weight.data
    linear.weight = bnb.nn.Params4bit(
        remainder,
        requires_grad=False,
        quant_type=weight.quant_type,
        quant_storage=weight.quant_storage,
        compress_statistics=weight.compress_statistics,
        module=linear,
    ).to(remainder.device)
