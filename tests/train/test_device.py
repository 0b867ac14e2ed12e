"""The dtype of a training follows from the device's instructions."""

from __future__ import annotations

import json

import pytest
import torch

from vram_search.train import device as training_device
from vram_search.train.device import compute_dtype, dtype_name


@pytest.fixture
def cpu(monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
    """The answers of torch about the CPU; a test sets them."""
    answers = {"onednn": False, "avx512": False, "avx512_bf16": False}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(
        torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: answers["onednn"], raising=False
    )
    monkeypatch.setattr(torch.cpu, "_is_avx512_supported", lambda: answers["avx512"])
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: answers["avx512_bf16"])
    return answers


@pytest.mark.parametrize(
    ("answers", "dtype"),
    [
        pytest.param({}, torch.float32, id="AVX2 (Zen 3, consumer Intel)"),
        pytest.param({"onednn": True, "avx512": True}, torch.float32, id="AVX512 that emulates"),
        pytest.param(
            {"onednn": True, "avx512": True, "avx512_bf16": True}, torch.bfloat16, id="AVX512-BF16"
        ),
        pytest.param({"onednn": True}, torch.bfloat16, id="AVX-NE-CONVERT or Arm"),
    ],
)
def test_a_cpu_trains_in_bfloat16_only_if_it_has_the_instructions(
    cpu: dict[str, bool], answers: dict[str, bool], dtype: torch.dtype
) -> None:
    cpu.update(answers)
    assert compute_dtype() == dtype
    assert ("no instructions" in training_device.reason()) is (dtype == torch.float32)


@pytest.mark.parametrize(("has_bf16", "dtype"), [(True, torch.bfloat16), (False, torch.float16)])
def test_a_gpu_trains_in_16_bits_whatever_the_cpu_can(
    cpu: dict[str, bool], monkeypatch: pytest.MonkeyPatch, has_bf16: bool, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bf16)
    assert compute_dtype() == dtype


def test_the_module_prints_the_device_and_its_dtype(capsys: pytest.CaptureFixture[str]) -> None:
    training_device.main()
    found = json.loads(capsys.readouterr().out)
    assert found["compute_dtype"] == dtype_name(compute_dtype())
    assert found["device"] == training_device.device_name()
    assert found["reason"]
