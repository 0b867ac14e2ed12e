"""Families whose language model transformers itself cannot train as a search does.

transformers 5.24. Their classes' own code fails in a trace (`bench.trace.every_family`), which
quantises by transformers' own code; `bench.trace.refused` trains tiny ones on real tensors.
"""

from __future__ import annotations

import json

from vram_search.errors import InputError
from vram_search.spec.shape import ModelShape

FAILS_IN_NF4 = {
    "gemma3n_text": "its layers clamp the weights of `prediction_coefs` in place",
    "inkling2_loop_text": "its layers cast hidden states to the dtype of the weights",
    "longcat_flash": "its routers multiply by their weights themselves",
    "mamba": "its layers multiply by the weights of `dt_proj` themselves",
    "rwkv": "an evaluation replaces weights of layers that have an adapter",
}
"""Text model_type -> what it does with weights that bitsandbytes has packed."""
NEEDS_MORE_THAN_TEXT = frozenset(
    {
        *("blip", "blip-2", "git", "idefics", "instructblip", "instructblipvideo", "kosmos-2"),
        *("pi0", "pix2struct", "vision-encoder-decoder"),
    }
)
"""model_types whose training rows have to have images."""
CUTS_BY_CONTENT = frozenset({"blt"})
"""model_types that cut a text into patches where it is hard to predict, so that the bytes of a
training depend on its texts."""
NO_MODEL_TYPE = "transformers has no model_type"
NO_LANGUAGE_MODEL = "transformers has no language model"
CANNOT_BUILD = "transformers cannot build this model"
"""Beginnings of the reasons why the class of a config.json cannot be built; each is of a model
that cannot be loaded either."""


def check_has_class(shape: ModelShape) -> None:
    """Refuses a model that the installed transformers cannot load with its own code.

    `estimate` and `fit` still count it, by the generic formula.

    Raises:
        InputError: with the reason.
    """
    for reason in shape.not_modelled:
        if NO_MODEL_TYPE in reason or NO_LANGUAGE_MODEL in reason:
            raise InputError(
                f"{reason}, so it cannot be trained here: code that came with a model is never run",
                "choose a model whose class is in transformers, or try pip install -U transformers;"
                " `estimate` and `fit` count this one as it is",
            )
        if CANNOT_BUILD in reason:
            raise InputError(
                reason,
                "install the package that is named, or compare config.json with the publisher's",
            )


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
    for name in sorted(names & CUTS_BY_CONTENT):
        raise InputError(
            f"the bytes of {name} are not known before it is trained: it cuts a text into patches "
            "by its content",
            "choose a model of tokens",
        )
    if shape.tree is not None and json.loads(shape.tree.filled_config).get("is_encoder_decoder"):
        raise InputError(
            f"{shape.tree.model_type} is an encoder with a decoder, and a search trains rows of "
            "text on a decoder alone",
            "choose a decoder-only model",
        )
    for name in sorted(names & FAILS_IN_NF4.keys()):
        raise InputError(
            f"transformers cannot train {name} in NF4: {FAILS_IN_NF4[name]}",
            "choose another model; `estimate --quantization none` counts it in 16 bits",
        )
