"""Chooses the device that trains and the dtype that it computes in.

    python -m vram_search.train.device

prints both and the reason as one line of JSON: `vram-search doctor` shows it.
"""

from __future__ import annotations

import gc
import json

import torch


def device() -> torch.device:
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def device_name() -> str:
    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else "CPU"


def compute_dtype() -> torch.dtype:
    """Returns the dtype of matrix products.

    A GPU computes in bfloat16, or in float16 where it lacks bfloat16. A CPU computes in bfloat16
    only where it has instructions for it; others need 40 times longer for a product in bfloat16
    than in float32 (docs/experiments.md) and compute in float32.
    """
    if device().type == "cpu":
        return torch.bfloat16 if multiplies_bfloat16() else torch.float32
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16
    return torch.float16


def multiplies_bfloat16() -> bool:
    """Returns True if the CPU has instructions for bfloat16 products that torch's oneDNN uses.

    These are AVX512-BF16, AMX, AVX-NE-CONVERT and Arm's BF16.

    oneDNN also accepts bfloat16 on every CPU with AVX512, and emulates it where AVX512-BF16 is
    missing (oneDNN's documentation, "Data Types").
    """
    is_emulated = torch.cpu._is_avx512_supported() and not torch.cpu._is_avx512_bf16_supported()
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) and not is_emulated


def reason() -> str:
    """Returns the reason for `compute_dtype` in words about the device."""
    dtype = compute_dtype()
    if device().type == "cuda":
        return f"it {'has' if dtype == torch.bfloat16 else 'lacks'} bfloat16 arithmetic"
    if dtype == torch.bfloat16:
        return "it has instructions for products in bfloat16"
    return "it has no instructions for products in bfloat16, which are 40 times slower there"


def dtype_name(dtype: torch.dtype) -> str:
    """Returns the dtype's name, `float32` for `torch.float32`."""
    return str(dtype).removeprefix("torch.")


def main() -> None:
    found = {
        "device": device_name(),
        "compute_dtype": dtype_name(compute_dtype()),
        "reason": reason(),
    }
    print(json.dumps(found))
    gc.freeze()  # the process ends, and would look for garbage among all of torch


if __name__ == "__main__":
    main()
