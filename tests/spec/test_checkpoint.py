"""Checkpoints whose weights are quantised already: their formats, sizes and words."""

from __future__ import annotations

from typing import Any

import pytest

from vram_search.errors import InputError
from vram_search.estimate.memory.predict import predict
from vram_search.estimate.memory.workload import Workload
from vram_search.spec.checkpoint import refused, stored_words
from vram_search.spec.shape import ModelShape, parse_shape
from vram_search.units import GIB

QWEN_3_8B: dict[str, Any] = {
    "model_type": "qwen3",
    "vocab_size": 151936,
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "tie_word_embeddings": False,
}
LINEAR = 6_945_767_424
"""Weights of its linear layers in the blocks; 1,244,659,712 stay in 16 bits, norms aside."""
KEPT = 2 * 1_244_659_712
FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128}
BNB = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
DOUBLE = {**BNB, "bnb_4bit_use_double_quant": True}
INT8 = {
    "quant_method": "compressed-tensors",
    "config_groups": {"group_0": {"weights": {"num_bits": 8, "group_size": None}}},
    "ignore": ["lm_head"],
}


def shape_with(quantization: dict[str, Any] | None) -> ModelShape:
    values = {**QWEN_3_8B, "quantization_config": quantization}
    return parse_shape(values, "config.json")


def base_bytes(shape: ModelShape, quantization: str = "nf4") -> int:
    workload = Workload(
        shape=shape,
        lora_modules=shape.estimated_modules("qv"),
        lora_rank=8,
        optimizer="adamw_8bit",
        per_device_train_batch_size=1,
        cutoff_len=512,
        quantization=quantization,
    )
    return predict(workload).parts["base_weights"]


@pytest.mark.parametrize(
    ("quantization", "bits"),
    [
        (DOUBLE, 4.127),
        (BNB, 4.5),
        (FP8, 8 + 32 / 128**2),
        (AWQ, 4 + 20 / 128),
        ({**GPTQ, "bits": 8}, 8 + 24 / 128 + 0.005),
        (GPTQ, 4 + 20 / 128 + 0.005),
        (INT8, 8.005),
        ({"quant_method": "nvfp4"}, 4.5),
    ],
)
def test_quantised_checkpoint_counts_with_its_real_size(
    quantization: dict[str, Any], bits: float
) -> None:
    expected = LINEAR * bits / 8 + KEPT
    assert base_bytes(shape_with(quantization)) == pytest.approx(expected, rel=0.003)


def test_published_size_of_qwen3_8b_in_fp8() -> None:
    """`Qwen/Qwen3-8B-FP8` takes 8.8 GiB on disk."""
    assert base_bytes(shape_with(FP8)) / GIB == pytest.approx(8.80, abs=0.01)


def test_layers_that_a_checkpoint_keeps_in_16_bits_count_so() -> None:
    skipped = {**DOUBLE, "llm_int8_skip_modules": ["lm_head", "model.layers.1.mlp"]}
    mlp = 3 * 4096 * 12288
    added = base_bytes(shape_with(skipped)) - base_bytes(shape_with(DOUBLE))
    assert added == pytest.approx(mlp * (2 - 0.516), rel=0.01)


def test_weights_that_are_turned_into_16_bits_keep_that_size() -> None:
    shape = shape_with(AWQ)
    assert base_bytes(shape, "none") == base_bytes(shape_with(None), "none")


def test_words_say_the_format_and_that_no_search_trains_it() -> None:
    awq, nf4 = shape_with(AWQ).checkpoint, shape_with(DOUBLE).checkpoint
    assert stored_words(awq).startswith("the weights are quantised already (awq) and counted with")
    assert stored_words(nf4) == stored_words(None) == ""
    mxfp4 = shape_with({"quant_method": "mxfp4"}).checkpoint
    assert stored_words(mxfp4).endswith("training turns them into 16 bits, and so they are counted")
    in_8_bits = shape_with({**BNB, "load_in_4bit": False, "load_in_8bit": True}).checkpoint
    assert in_8_bits is not None and not in_8_bits.is_trained
    error = refused("org/model", in_8_bits.title)
    assert "the weights of org/model are quantised already (bitsandbytes, 8 bits)" in error.message
    assert "in 16 bits" in error.remedy


@pytest.mark.parametrize(
    ("quantization", "bits"),
    [
        ({"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, 4),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, 8),
        ({"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": 2}}}, 2),
        ({"quant_method": "quanto", "weights": "int4"}, 4),
        ({"quant_method": "torchao", "quant_type": "int4_weight_only"}, 4),
        ({"quant_method": "torchao", "quant_type": {"default": {"_type": "Float8Config"}}}, 8),
        ({"quant_method": "eetq", "weights": "int8"}, 8),
        ({"quant_method": "fbgemm_fp8"}, 8),
        ({"quant_method": "bitnet"}, 2),
        ({"quant_method": "higgs", "bits": 4, "group_size": 256}, 4),
        ({"quant_method": "auto-round", "bits": 4, "group_size": 128}, 4),
        (
            {
                "quant_method": "aqlm",
                "num_codebooks": 2,
                "nbits_per_codebook": 8,
                "in_group_size": 8,
            },
            2,
        ),
    ],
)
def test_no_quantised_format_is_counted_in_16_bits(
    quantization: dict[str, Any], bits: float
) -> None:
    least = LINEAR * bits / 8 + KEPT
    assert least < base_bytes(shape_with(quantization)) < 1.15 * least


@pytest.mark.parametrize("method", ["spqr", "vptq", "quark", "zzz"])
def test_a_format_whose_bytes_are_not_known_is_refused_in_a_sentence(method: str) -> None:
    with pytest.raises(InputError, match=f"the bytes of quant_method '{method}' are not known"):
        shape_with({"quant_method": method})
