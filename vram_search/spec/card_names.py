"""Finds a shipped card by a name as people write it: "RTX 4060 Ti 16GB", "3090", "24GB"."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from vram_search.spec.card_files import card_names, load_card
from vram_search.spec.card_refusals import one_card_alone, several_cards, why_refused
from vram_search.spec.card_texts import MEBIBYTES, bare, rounded, spelt_out
from vram_search.units import MIB, format_bytes

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
        *("small", "medium", "large"),  # kinds of Spaces
    }
)
_PACKAGING = re.compile(r"(sxm|hbm|gddr)\d*[ex]?")
_SIZE = re.compile(r"(?:(?<![a-z0-9])|(?<=ti)|(?<=super))(\d{1,3}) ?(?:gb|gib|g|go)\b")
_GLUED = re.compile(r"(?<=\d)(?=(?:ti|tis|super|laptop|d|s|m)\b)|(?<=tx)(?=\d{4})")
_BETWEEN = re.compile(r"\s*(?:[+,&/;]|\b(?:and|und)\b)\s*", re.IGNORECASE)
_SERIES = re.compile(r"[a-z]+(?:\d[a-z]?)?")
"""A word of a maker or a shop; a model of a card has more digits."""
_MAX_Q = re.compile(r"\bmax-?q\b", re.IGNORECASE)
_SHORT = {
    "m": ("laptop",),
    "s": ("super",),
    "tis": ("ti", "super"),
    "mobile": ("laptop",),
    "notebook": ("laptop",),
}
"""Words that people shorten -> the card's own."""
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
    plain = bare(text)
    refused = several_cards(plain) or _joined(plain)
    slugs = [] if refused else matching_cards(plain)
    if len(slugs) == 1:
        return load_card(slugs[0])
    if not slugs:
        lower = " ".join(_GLUED.sub(" ", plain.lower().replace("-", " ")).split())
        refused = refused or why_refused(text, lower)
        if refused:
            raise ValueError(f"no card {text!r}; {refused}")
        slugs = _named_within(plain)
        if len(slugs) == 1:
            return load_card(slugs[0])
    if slugs:
        raise ValueError(f"{text!r} is the name of several cards: {', '.join(slugs)}")
    plain = rounded(plain)
    size = _SIZE.search(plain.lower()) if not _words(plain) and "-" not in plain else None
    if size is not None and (generic := _of_size(int(size[1]))) is not None:
        return generic
    raise ValueError(f"no card {text!r}; {_why_not(plain) or _similar(plain)}")


def matching_cards(text: str) -> list[str]:
    """Returns the slugs of the shipped cards with this name, and with its size if it names one.

    A size in MiB is the total that nvidia-smi prints, which may be less than the name's.
    """
    lower = spelt_out(text.lower())
    words = _words(lower)
    if _MAX_Q.search(text) and "pro" not in words:
        slugs = _with_words(words | {"laptop"}) or _with_words(words)
    else:
        slugs = _with_words(words)
    return _of_named_size(slugs, lower)


def _of_named_size(slugs: list[str], text: str) -> list[str]:
    mebibytes = MEBIBYTES.search(text)
    if mebibytes is not None:
        total = int(mebibytes[1]) * MIB
        same = [slug for slug in slugs if _is_total(load_card(slug), total)]
        if same:
            return same
    size = _SIZE.search(rounded(text))
    return slugs if size is None else [slug for slug in slugs if slug.endswith(f"-{size[1]}gb")]


def _is_total(fields: dict[str, Any], total_bytes: int) -> bool:
    return bool(abs(fields["total_bytes"] / total_bytes - 1) <= _SAME_TOTAL)


def _with_words(words: frozenset[str]) -> list[str]:
    return [slug for slug in card_names() if words and _words(slug) == words]


def _named_within(text: str) -> list[str]:
    """Cards whose name stands among words that no card has ("MSI ... Gaming OC"), or before a bare
    size ("A100 80")."""
    lower = spelt_out(text.lower())
    words = _words(lower)
    sizes = [word for word in words if re.fullmatch(r"\d{1,3}", word)]
    if len(sizes) == 1 and _SIZE.search(lower) is None:
        slugs = _with_words(words - {sizes[0]})
        return [slug for slug in slugs if slug.endswith(f"-{sizes[0]}gb")]
    known = frozenset().union(*map(_words, card_names()))
    others = words - known
    if " " not in text or not others or not all(map(_SERIES.fullmatch, others)):
        return []  # a word of a slug is not passed over
    return matching_cards(re.sub(rf"\b(?:{'|'.join(others)})\b", " ", lower))


def _joined(text: str) -> str:
    """The reason if a text names several cards: "3090 + 3060"."""
    parts = [part for part in _BETWEEN.split(text) if part and matching_cards(part)]
    return one_card_alone(parts[0]) if len(parts) > 1 else ""


def card_of_device(name: str, total_bytes: int) -> dict[str, Any] | None:
    """Returns the fields of the shipped card that a device is; None if no such card is shipped.

    Args:
        name: as NVML names the device.
        total_bytes: as NVML reports them.
    """
    for slug in matching_cards(_SIZE.sub("", name.lower())):
        fields = load_card(slug)
        if _is_total(fields, total_bytes):
            return fields
    return None


def _words(text: str) -> frozenset[str]:
    """Returns the words that distinguish cards: without vendor, size, memory type and slot."""
    text = _SIZE.sub("", rounded(text).lower().replace("_", " "))
    spaced = _GLUED.sub(" ", text)
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
    """Says which sizes there are; empty for an unknown name."""
    lower = " ".join(text.lower().replace("-", " ").split())
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
