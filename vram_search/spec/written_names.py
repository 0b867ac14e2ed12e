"""Model names as people write them: addresses, revisions, names of GGUF files and of Ollama."""

from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache

from vram_search.spec.hub_names import HUB_NAME, MIRRORS, model_index, model_of_page

_PREFIX = re.compile(
    r"(?:hf://|(?:https?://)?(?:www\.)?(?:hf-mirror\.com|modelscope\.cn/models|modelscope\.cn)/)",
    re.IGNORECASE,
)
_TAG = re.compile(rf"({HUB_NAME.pattern})[@:][\w.-]+")
_STORED = re.compile(
    r"[-_:. ](?:(?:UD-)?I?Q\d\w*|BF16|F?P?16|F32|MXFP4\w*|QAT|GGUF)$", re.IGNORECASE
)
"""The end of a name that says how weights are stored in a GGUF file."""
_UNTUNED = re.compile(r"[-_: ](?:base|text)$", re.IGNORECASE)
"""The end of Ollama's tags of models without instruction tuning: "qwen2.5-coder:1.5b-base"."""
_WORD = re.compile(r"[a-z]+|\d+(?:\.\d+)?[bm]?")
_BETWEEN_NUMBERS = re.compile(r"(?<=\d)[-_ :]+(?=\d)")
_BETWEEN = re.compile(r"[-_ :]+")


def tidied(name: str) -> str:
    """A hub name without quotes, an address around it, a revision or a tag.

    "hf.co/bartowski/Llama-3.2-3B-Instruct-GGUF:Q4_K_M" and "Qwen/Qwen3-4B@main" lose their ends.
    """
    name = name.strip().strip("'\"").strip()
    name = model_of_page(name.partition("?")[0].partition("#")[0]) or name
    name = _PREFIX.sub("", name)
    if HUB_NAME.fullmatch(name.rstrip("/")):
        return name.rstrip("/")
    tagged = _TAG.fullmatch(name.removeprefix("hf.co/").removeprefix("huggingface.co/"))
    return tagged[1] if tagged else name


def spelt_name(name: str) -> str | None:
    """The published name that is spelt otherwise: "Llama 3.1 8B", "qwen2.5:7b-instruct-q4_K_M".

    Words may be apart or together, and an ending may say how a GGUF file stores weights. Numbers
    stay apart: "qwen 27b" is not Qwen2 7B. With Ollama's ":" a bare size means the tuned model, as
    there ("qwen2.5:7b" is Qwen2.5-7B-Instruct). None if no shipped model is called so.
    """
    base = re.sub(r"\.gguf$", "", name.strip(), flags=re.IGNORECASE)
    if "/" in base or "\\" in base:
        return None
    plain = _STORED.sub("", base)
    published, slugs = _published_by_letters(), _slugs_by_letters()
    named = published | slugs if ":" in base else slugs | published
    untuned = published.get(_letters(_UNTUNED.sub("", plain)))
    return named.get(_letters(base)) or named.get(_letters(plain)) or untuned


def close_names(name: str, count: int = 3) -> list[str]:
    """Published names that hold all words of a name: those that begin as it does and short ones
    first, mirrors last.

    "deepseek-r1:7b" stands in "DeepSeek-R1-Distill-Qwen-7B".
    """
    words = _WORD.findall(name.lower())
    found: list[tuple[bool, bool, int, str]] = []
    for known in _published_by_letters().values():
        owner, _, base = known.lower().partition("/")
        held = _WORD.findall(base)
        if words and Counter(words) <= Counter(held):
            found.append((held[0] != words[0], owner in MIRRORS, len(base), known))
    return [known for *_, known in sorted(found)[:count]]


def _letters(name: str) -> str:
    """A name in lower case without what stands between its words; "-" stays between numbers."""
    return _BETWEEN.sub("", _BETWEEN_NUMBERS.sub("\0", name.lower())).replace("\0", "-")


@lru_cache(maxsize=1)
def _slugs_by_letters() -> dict[str, str]:
    """First published name of each shipped shape, by the letters of the shape's name."""
    return {_letters(slug): entry["names"][0] for slug, entry in model_index().items()}


@lru_cache(maxsize=1)
def _published_by_letters() -> dict[str, str]:
    """Published name by its letters without owner; a publisher's own name comes before a mirror's.
    Of several models of one name, the first in the index."""
    names = [name for entry in model_index().values() for name in entry["names"]]
    found: dict[str, str] = {}
    for name in sorted(names, key=lambda one: one.partition("/")[0].lower() in MIRRORS):
        found.setdefault(_letters(name.partition("/")[2]), name)
    return found
