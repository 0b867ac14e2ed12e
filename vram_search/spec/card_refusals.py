"""Why a text names no card on which a study can run."""

from __future__ import annotations

import re

_COUNT = re.compile(
    r"(?<![\w.])(?:[2-9]\d?|1\d) ?x ?(?=\D*\d)"  # 2x3090
    r"|^\s*[2-9]\s+(?=(?:nvidia|geforce|rtx|gtx|tesla|quadro)\b)|^\s*[2-9] (?:gpu|card)s?\b"
    r"|\b(?:dual|two|twin|three|four|quad|eight|zwei|drei|vier)[ -]+(?=\D*\d)"
    r"|(?<=[a-z0-9)]) ?\(?x ?[2-9]\b\)?(?! ?\d)",  # 3090 x2
    re.IGNORECASE,
)
_NOT_NVIDIA = re.compile(
    r"\b(rx ?\d{3,4}|vega|\d{4} ?xtx?|w[67][5-9]00|radeon|instinct|mi\d{2,3}x?|amd|arc|intel"
    r"|gaudi ?\d?"
    r"|tpu|m[1-5] ?(pro|max|ultra)?|apple|macbook|mps|gfx\d{3,4}|strix (?:halo|point)|ryzen ai"
    r"|trainium|inferentia|trn\d|inf\d|ascend)\b"
)
_PART = re.compile(r"\bmig\b|\b[1-7]g\.\d+gb\b|\bgrid\b|[a-z]\d+x?-\d+[qcab]\b|\bvgpu\b")
"""A slice of a card (MIG), or a profile of a virtual one."""
_SHARED = re.compile(r"\b(dgx spark|gb10|jetson|orin|xavier|agx thor|jetson thor)\b")
_HERE = re.compile(r"(cuda|gpu|nvidia)(:\d+)?")
_NONE = ("cpu", "cpu only", "no gpu", "none")
_SMALL = re.compile(
    r"\b(gtx 16[35]0|mx ?\d{3}|t[46]00|t1000|quadro t\d{3,4}|rtx a[45]00|a400)\b(?! ?\d+ ?gb)"
)
"""Cards since Turing with 4 GB or less; their forms with 8 GB state that size."""
_OLD = {
    "Kepler": r"k[1-8]0m?|gtx (?:6|7)\d0|gtx titan",
    "Maxwell": r"m[1-6]0|m\d000m?|gtx 9\d0",
    "Pascal": r"p(?:100|[46]0?)|p\d000|(?:gtx )?10[5-8]0|titan xp?",
}
"""Architectures before Volta -> their cards; PyTorch's current builds do not run on them."""


def several_cards(text: str) -> str:
    """The reason if a text counts cards; empty if it does not."""
    if not _COUNT.search(text):
        return ""
    one = " ".join(_COUNT.sub(" ", text).split())
    return one_card_alone(one)


def one_card_alone(one: str) -> str:
    """The reason with the name of one of several cards."""
    return f"a study runs on one card: write {one!r}; several GPUs run one worker each"


def why_refused(text: str, lower: str) -> str:
    """The reason why a name can be no card here; empty if it is only unknown.

    Args:
        lower: the text in small letters, with a space for each hyphen.
    """
    if _PART.search(text.lower()):
        return (
            "a MIG slice or a virtual GPU has a part of its card's memory: write a mapping with "
            "name and the total_bytes that nvidia-smi prints for it"
        )
    if _NOT_NVIDIA.search(lower):
        return (
            "it is no NVIDIA card: 4-bit training here needs CUDA. A mapping with total_bytes "
            "answers for any size"
        )
    if _SHARED.search(lower):
        return (
            "its GPU shares the machine's memory, of which other programs take a part: write a "
            "mapping with name and the total_bytes that are free for training"
        )
    if lower in _NONE:
        return "name the card that the training is for; without an NVIDIA GPU a run uses the CPU"
    if _HERE.fullmatch(lower):
        return "write auto for the GPU in this machine"
    if _SMALL.search(lower):
        return (
            "it has less than the 6 GB of the smallest known card; write a mapping with total_bytes"
        )
    for architecture, names in _OLD.items():
        if re.search(rf"\b(?:{names})\b", lower):
            return (
                f"it is too old: {architecture} came before Volta, and current PyTorch builds do "
                "not run on it"
            )
    if re.fullmatch(r"\d{1,3}", lower):
        return f"for a card of that size write {lower}GB"
    return ""
