"""A few traced layers at a few sizes give the bytes of all layers at any size."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

from vram_search.model_code.build import build, load_config
from vram_search.trace.layers import decoder_layers, keep_few
from vram_search.trace.recorder import AllocationStream, with_sums_in_place
from vram_search.trace.settings import Batch, TraceSettings
from vram_search.trace.tracer import short_rows, trace
from vram_search.trace.training import traced_model

TARGETS = ("q_proj", "c_fc", "c_proj")
STARCODER = {
    "model_type": "starcoder2",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
    "sliding_window": 4096,
    "attention_dropout": 0.0,
    "residual_dropout": 0.0,
    "embedding_dropout": 0.0,
}
"""LayerNorm, biases and an MLP without a gate: a family without a formula."""


@pytest.mark.parametrize("checkpointing", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_the_fit_of_three_layers_is_the_trace_of_all(checkpointing: bool) -> None:
    settings = TraceSettings(TARGETS, gradient_checkpointing=checkpointing)
    batch, rank = Batch(3, 640), 16
    found, whole = _both(STARCODER, settings, batch)
    assert found.scope.tokens == (1, 4095)
    assert len(found.fits[0].training.kept) == 3
    peak = found.fits[0].peak(*batch, rank, expandable=True).total
    assert peak == pytest.approx(whole.peak, rel=0.001)


FALCON_H1 = {
    "model_type": "falcon_h1",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "mamba_d_ssm": 64,
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_d_state": 16,
    "mamba_chunk_size": 32,
    "vocab_size": 500,
}
"""State space layers in plain torch, which pad each row to whole chunks."""


@pytest.mark.slow
def test_a_layer_that_pads_rows_to_chunks_is_counted_with_the_padding() -> None:
    settings = TraceSettings(("q_proj", "gate_proj"), gradient_checkpointing=False)
    found, whole = _both(FALCON_H1, settings, Batch(2, 512 - 31))
    assert set(found.fits[0].chunks) == {32}
    peak = found.fits[0].peak(2, 512 - 31, 16, expandable=True).total
    assert peak == pytest.approx(whole.peak, rel=0.04) and peak >= whole.peak


QWEN = {
    "model_type": "qwen3_5_text",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "linear_num_key_heads": 1,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "layer_types": ["linear_attention", "full_attention"],
    "vocab_size": 200,
}
"""Linear attention in plain torch, which loops over chunks of 64 tokens."""


def test_a_model_that_loops_over_chunks_is_fitted_at_an_anchor() -> None:
    settings = TraceSettings(("q_proj", "gate_proj"), gradient_checkpointing=False)
    found = trace(QWEN, settings, Batch(1, 900), lambda *_: None, anchors=(128, 256))
    assert found.scope.tokens == (256, 256) and found.scope.unit == 0
    assert found.error < 0.01  # blocks of 512 bytes count in so small a model


def _both(config: dict[str, Any], settings: TraceSettings, batch: Batch) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = trace(config, settings, batch, lambda done, count: None)
        with traced_model(config, settings, "all") as model:
            model.warm_up(batch)
            return found, model.record(batch).training


def test_two_gradients_in_fp32_are_added_in_place() -> None:
    stream = AllocationStream()
    first, second = stream.allocate(1000), stream.allocate(1000)
    total = stream.allocate(1000)
    stream.free(first)
    stream.free(second)
    stream.free(total)
    stream.sums.append((total, first, second))
    assert stream.peak == 3 * 1024
    assert with_sums_in_place(stream).peak == 2 * 1024


@pytest.mark.parametrize(
    ("requests", "per_token", "tokens", "length"),
    [
        (700, 0.5, 2048, 0),  # Qwen3.5 loops over chunks
        (2000, 15.0, 1024, 128),
        (4239, 32.0, 1024, 64),  # Zamba loops over tokens
    ],
)
def test_a_loop_over_tokens_is_traced_in_short_rows(
    requests: int, per_token: float, tokens: int, length: int
) -> None:
    assert short_rows(requests, per_token, tokens) == length


def test_shared_blocks_know_the_kept_layers_by_their_new_numbers() -> None:
    """Zamba 2's look up their adapters by the number of the layer that calls them."""
    kinds = ["mamba", "mamba", "hybrid", "mamba", "hybrid", "mamba"]
    sizes = {"hidden_size": 32, "num_hidden_layers": 6, "num_attention_heads": 2, "vocab_size": 64}
    config = load_config(
        {"model_type": "zamba2", **sizes, "layers_block_type": kinds, "mamba_d_state": 8}, "zamba2"
    )
    model = build(config)
    layers = decoder_layers(model)
    kept = keep_few(model, layers)
    hybrid = next(number for number, place in enumerate(kept.places) if kinds[place] == "hybrid")
    tables = [m.layer_dic for m in model.modules() if isinstance(getattr(m, "layer_dic", 0), dict)]
    assert tables and all(set(table) == {hybrid} for table in tables)


def test_a_layer_that_may_be_left_out_at_random_is_counted() -> None:
    """transformers up to 5.17 draws (`torch.rand([]) < layerdrop`) also where nothing is left
    out."""
    settings = TraceSettings(("q_proj",), gradient_checkpointing=False, quantization="none")
    sizes = {"hidden_size": 32, "ffn_dim": 64, "num_attention_heads": 2, "vocab_size": 100}
    opt = {"model_type": "opt", "word_embed_proj_dim": 32, "num_hidden_layers": 2, **sizes}
    peaks = []
    for share in (0.0, 0.5):
        with traced_model({**opt, "layerdrop": share}, settings, "all") as model:
            peaks.append(model.record(Batch(1, 128)).training.peak)
    assert peaks[0] == pytest.approx(peaks[1], rel=0.01)
