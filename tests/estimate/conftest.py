"""What `st.from_type` draws for the types of this room: models, points, plans and cards."""

from __future__ import annotations

from hypothesis import strategies as st

from vram_search.spec import Card, Hyperparameters, MemoryPlan, ModelShape, PlanPins
from vram_search.spec.optimizers import OPTIMIZERS
from vram_search.spec.shape import parse_shape
from vram_search.units import GIB

FAMILIES = ["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "granite", "olmo2"]


@st.composite
def shapes(draw: st.DrawFn) -> ModelShape:
    """Small and large models with separate projections, of families with features of their own."""
    heads = draw(st.sampled_from([2, 4, 8, 32]))
    return parse_shape(
        {
            "model_type": draw(st.sampled_from(FAMILIES)),
            "vocab_size": draw(st.integers(64, 260_000)),
            "hidden_size": heads * draw(st.sampled_from([16, 64, 128])),
            "intermediate_size": draw(st.integers(32, 16_000)),
            "num_hidden_layers": draw(st.integers(1, 60)),
            "num_attention_heads": heads,
            "num_key_value_heads": draw(st.sampled_from([1, 2])),
            "tie_word_embeddings": draw(st.booleans()),
            "final_logit_softcapping": draw(st.sampled_from([None, 30.0])),
            "sliding_window": draw(st.sampled_from([None, 512, 4096])),
        },
        "drawn",
    )


points = st.builds(
    Hyperparameters,
    optim=st.sampled_from(list(OPTIMIZERS)),
    lora_target=st.sampled_from(["qv", "qkvo", "qkvo_gu", "all", "up_proj,down_proj"]),
    lora_rank=st.integers(1, 256),
    lora_alpha=st.just(16),
    cutoff_len=st.integers(16, 8192),
    batch_size=st.integers(1, 48),
    learning_rate=st.just(1e-4),
)
memory_plans = st.builds(
    MemoryPlan,
    per_device_train_batch_size=st.integers(1, 32),
    gradient_accumulation_steps=st.integers(1, 8),
    gradient_checkpointing=st.booleans(),
    enable_liger_kernel=st.booleans(),
    per_device_eval_batch_size=st.integers(1, 16),
    expandable_segments=st.booleans(),
)
cards = st.builds(
    Card,
    name=st.just("drawn"),
    total_bytes=st.integers(2 * GIB, 200 * GIB),
    context_bytes=st.integers(0, GIB),
    platform=st.sampled_from(["linux", "windows"]),
)
flags = st.none() | st.booleans()
pins = st.builds(
    PlanPins,
    gradient_checkpointing=flags,
    enable_liger_kernel=flags,
    per_device_eval_batch_size=st.none() | st.integers(1, 16),
    expandable_segments=flags,
)

st.register_type_strategy(ModelShape, shapes())
st.register_type_strategy(Hyperparameters, points)
st.register_type_strategy(MemoryPlan, memory_plans)
st.register_type_strategy(Card, cards)
st.register_type_strategy(PlanPins, pins)
