"""Liger's kernels on fake tensors: the traced bytes are those of the formula that was measured."""

from __future__ import annotations

import pytest

from vram_search.estimate.memory.peaks import fused_chunk_bytes, moments
from vram_search.estimate.memory.workload import Workload
from vram_search.spec.liger import LIGER, liger_patches
from vram_search.spec.shape import parse_shape
from vram_search.trace.settings import Batch, TraceSettings
from vram_search.trace.tracer import trace

LLAMA = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 8000,
}


@pytest.mark.filterwarnings("ignore")
def test_traced_kernels_need_what_the_formula_of_a_modelled_family_says() -> None:
    shape = parse_shape(LLAMA, "config.json")
    targets = tuple(shape.target_modules("all"))
    settings = TraceSettings(targets, gradient_checkpointing=False, use_liger_kernel=True)
    found = trace(LLAMA, settings, Batch(2, 512), lambda *_: None)
    for batch in (Batch(2, 512), Batch(4, 1024)):
        workload = Workload(
            shape=shape,
            lora_modules=targets,
            lora_rank=16,
            optimizer="adamw_8bit",
            per_device_train_batch_size=batch.rows,
            cutoff_len=batch.tokens,
            gradient_checkpointing=False,
            fused_linear_cross_entropy=True,
            expandable_segments=True,
        )
        chunk = fused_chunk_bytes(workload)
        peak = found.fits[0].peak(*batch, 16, expandable=True, chunk_bytes=chunk)
        formula = max(sum(parts.values()) for parts in moments(workload).values())
        assert peak.total == pytest.approx(formula, rel=0.005)
        far_larger = found.fits[0].peak(*batch, 16, expandable=True, chunk_bytes=1 << 40)
        assert far_larger.phase == "chunk"  # the logits of a chunk may be the peak


def test_a_model_of_several_parts_is_patched_as_its_text_model() -> None:
    patches = liger_patches("smolvlm", "llama")
    assert patches == LIGER["llama"]
    assert liger_patches("stablelm", "stablelm") is None
