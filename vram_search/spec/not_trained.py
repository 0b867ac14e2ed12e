"""Families whose language model transformers itself cannot train as a search does.

transformers 5.24. Their classes' own code fails in a trace (`bench.trace.every_family`), which
quantises by transformers' own code; `bench.trace.refused` trains tiny ones on real tensors.
"""

from __future__ import annotations

from vram_search.errors import InputError
from vram_search.spec.shape import ModelShape

FAILS_IN_NF4 = {
    "gemma3n_text": "its layers clamp the weights of `prediction_coefs` in place",
    "inkling2_loop_text": "its layers cast hidden states to the dtype of the weights",
    "longcat_flash": "its routers multiply by their weights themselves",
    "mamba": "its layers multiply by the weights of `dt_proj` themselves",
}
"""Text model_type -> what it does with weights that bitsandbytes has packed."""
NEEDS_MORE_THAN_TEXT = frozenset(
    {
        *("blip", "blip-2", "git", "idefics", "instructblip", "instructblipvideo", "kosmos-2"),
        *("pi0", "pix2struct", "vision-encoder-decoder"),
    }
)
"""model_types whose training rows have to have images."""


def check_trainable(shape: ModelShape) -> None:
    """Refuses a model that transformers cannot train in NF4 on text.

    Raises:
        InputError: with the reason.
    """
    names = {shape.model_type}
    if shape.tree is not None:
        names |= {shape.tree.model_type, shape.tree.text_model_type}
    for name in sorted(names & NEEDS_MORE_THAN_TEXT):
        raise InputError(
            f"transformers cannot train {name} on text alone: its forward pass asks for images",
            "choose a model whose class takes text without images",
        )
    for name in sorted(names & FAILS_IN_NF4.keys()):
        raise InputError(
            f"transformers cannot train {name} in NF4: {FAILS_IN_NF4[name]}",
            "choose another model; `estimate --quantization none` counts it in 16 bits",
        )
