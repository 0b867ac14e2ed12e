"""Finds a shipped card by a name as people write it: "RTX 4060 Ti 16GB", "3090", "24GB"."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from vram_search.spec.card_files import card_names, load_card
from vram_search.units import format_bytes

_DROPPED = frozenset(
    {
        *("nvidia", "geforce", "tesla", "gpu", "pcie", "rtx", "gtx", "generation", "blackwell"),
        *(
            "workstation",
            "server",
            "edition",
            "desktop",
            "graphics",
            "card",
            "vram",
            "memory",
            "founders",
            "max",
            "q",
            "sff",
            "egpu",
        ),
        # places that lend cards
        *("colab", "kaggle", "runpod", "vast", "lambda", "paperspace", "aws", "gcp", "azure"),
    }
)
_PACKAGING = re.compile(r"(sxm|hbm|gddr)\d*[ex]?")
_SIZE = re.compile(r"(?:(?<![a-z0-9])|(?<=ti)|(?<=super))(\d{1,3}) ?(?:gb|gib|g|go)\b")
_MEBIBYTES = re.compile(r"(?<![a-z0-9])(\d{4,6}) ?(?:mib|mb)\b", re.IGNORECASE)
"""A size as nvidia-smi prints it."""
_GLUED = re.compile(r"(?<=\d)(?=(?:ti|tis|super|laptop|d|s|m)\b)|(?<=tx)(?=\d{4})")
_ONE = re.compile(r"^\s*1 ?x ?(?=\D*\d)|\b ?x ?1\s*$", re.IGNORECASE)
"""A single card, counted."""
_SPELT = {
    "a6000 ada": "rtx 6000 ada",
    "rtx 8000": "quadro rtx 8000",
    "t4g": "t4",
    "v100s": "v100",
    **dict.fromkeys(("g4dn", "g5g"), "t4"),
    "g5": "a10g",
    "g6": "l4",
    "g6e": "l40s",
    "p4d": "a100 40gb",
    "p4de": "a100 80gb",
    "p5": "h100",
    "p5e": "h200",
}
"""Second names of cards, and instances of AWS by their card."""
_INSTANCE = re.compile(r"\.(?:\d*x?large|metal)$")
_SHORT = {
    "m": ("laptop",),
    "s": ("super",),
    "tis": ("ti", "super"),
    "mobile": ("laptop",),
    "notebook": ("laptop",),
}
"""Words that people shorten -> the card's own."""
_COUNT = re.compile(
    r"^\s*(?:[2-9]\d? ?x ?|(?:dual|two|twin|three|four|quad|eight)[ -]+)(?=\D*\d)|\b ?x ?[2-9]\s*$",
    re.IGNORECASE,
)
_NOT_NVIDIA = re.compile(
    r"\b(rx ?\d{4}|\d{4} ?xtx?|w[67][5-9]00|radeon|instinct|mi\d{2,3}x?|amd|arc|intel|gaudi ?\d?"
    r"|tpu|m[1-4] ?(pro|max|ultra)?|apple|macbook|mps)\b"
)
_SHARED = re.compile(r"\b(dgx spark|gb10|jetson|orin|xavier|agx thor|jetson thor)\b")
_HERE = re.compile(r"(cuda|gpu|nvidia)(:\d+)?")
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
MAX_NAME = 200
"""Characters; the regular expressions here would take seconds for very long texts."""
_SAME_TOTAL = 0.02
"""Two cards of one name are the same if their total bytes differ by less."""


def find_card(text: str, here: Callable[[], dict[str, Any]] | None = None) -> dict[str, Any]:
    """Returns the fields of the card that a text names.

    Args:
        text: a slug, the name of a card with or without vendor and size, only a size, or "auto".
        here: returns the fields of the GPU in this machine, for "auto".

    Raises:
        ValueError: no card has that name, several have, or "auto" finds no GPU.
    """
    if len(text) > MAX_NAME:
        raise ValueError(
            f"no card {text[:20]!r}...: a card's name has at most {MAX_NAME} characters"
        )
    if text.strip().lower() == "auto":
        if here is None:
            raise ValueError("auto stands for the GPU in this machine; name a card here")
        return here()
    if text in card_names():
        return load_card(text)
    text = _MEBIBYTES.sub(lambda size: f"{round(int(size[1]) / 1024)}GB", text)
    text = _ONE.sub("", text)
    slugs = matching_cards(text)
    if len(slugs) == 1:
        return load_card(slugs[0])
    if slugs:
        raise ValueError(f"{text!r} is the name of several cards: {', '.join(slugs)}")
    size = _SIZE.search(text.lower()) if not _words(text) and "-" not in text else None
    if size is not None and (generic := _of_size(int(size[1]))) is not None:
        return generic
    raise ValueError(f"no card {text!r}; {_why_not(text) or _similar(text)}")


def matching_cards(text: str) -> list[str]:
    """Returns the slugs of the shipped cards with this name, and with its size if it names one."""
    text = _spelt_out(text.lower())
    size = _SIZE.search(text)
    words = _words(text)
    slugs = [slug for slug in card_names() if words and _words(slug) == words]
    if size is not None:
        slugs = [slug for slug in slugs if slug.endswith(f"-{size[1]}gb")]
    return slugs


def card_of_device(name: str, total_bytes: int) -> dict[str, Any] | None:
    """Returns the fields of the shipped card that a device is; None if no such card is shipped.

    Args:
        name: as NVML names the device.
        total_bytes: as NVML reports them.
    """
    for slug in matching_cards(_SIZE.sub("", name.lower())):
        fields = load_card(slug)
        if abs(fields["total_bytes"] / total_bytes - 1) <= _SAME_TOTAL:
            return fields
    return None


def _spelt_out(text: str) -> str:
    """Replaces second names, for example an instance's type, by the card's own."""
    text = _INSTANCE.sub("", text.replace("_", " "))
    for other, name in _SPELT.items():
        text = re.sub(rf"\b{other}\b", name, text)
    return text


def _words(text: str) -> frozenset[str]:
    """Returns the words that distinguish cards: without vendor, size, memory type and slot."""
    spaced = _GLUED.sub(" ", _SIZE.sub("", text.lower().replace("_", " ")))
    words = re.findall(r"[a-z0-9]+", spaced)
    words = [full for word in words for full in _SHORT.get(word, (word,))]
    return frozenset(w for w in words if w not in _DROPPED and not _PACKAGING.fullmatch(w))


def _of_size(gigabytes: int) -> dict[str, Any] | None:
    """Returns a card of this size with the smallest budget of all shipped cards of the size."""
    of_size = [load_card(slug) for slug in card_names() if slug.endswith(f"-{gigabytes}gb")]
    if not of_size:
        return None
    smallest = min(of_size, key=lambda fields: fields["total_bytes"] - fields["reserve_bytes"])
    return {
        "name": f"{gigabytes}gb",
        "title": f"a card with {gigabytes} GB",
        "total_bytes": smallest["total_bytes"],
        "reserve_bytes": smallest["reserve_bytes"],
        "context_bytes": smallest["context_bytes"],
        "assumed": True,
    }


def _why_not(text: str) -> str:
    """The reason why a name can be no card here; empty if it is only unknown."""
    lower = " ".join(_GLUED.sub(" ", text.lower().replace("-", " ")).split())
    if _COUNT.search(text):
        one = _COUNT.sub("", text).strip()
        return f"a study runs on one card: write {one!r}; several GPUs run one worker each"
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
    if lower == "cpu":
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
    if re.fullmatch(r"[-+]? ?\d+ ?(gb|gib|g|mb|mib)", lower):
        sizes = sorted({int(slug.rpartition("-")[2].removesuffix("gb")) for slug in card_names()})
        listed = ", ".join(map(str, sizes))
        return f"known sizes are {listed} GB; for another one write a mapping with total_bytes"
    others = [slug for slug in card_names() if _words(text) and _words(slug) == _words(text)]
    if others:
        return (
            f"shipped are {', '.join(others)}; for another size write a mapping with total_bytes, "
            "or the size alone"
        )
    return ""


def _similar(text: str) -> str:
    words = _words(text)
    import difflib

    sharing = [slug for slug in card_names() if words and words < _words(slug)]
    close = sharing or difflib.get_close_matches(_slug_like(text), card_names(), n=5, cutoff=0.6)
    if close:
        return f"did you mean {_listed(close)}?"
    return (
        "write a name such as 'RTX 4060 Ti 16GB', a size such as 16GB, or a mapping with "
        f"total_bytes ({format_bytes(16 * 2**30)}); configs/cards/README.md lists the known cards"
    )


def _slug_like(text: str) -> str:
    return "-".join(re.findall(r"[a-z0-9]+", _GLUED.sub(" ", text.lower())))


def _listed(slugs: Sequence[str]) -> str:
    return ", ".join(slugs[:6])
