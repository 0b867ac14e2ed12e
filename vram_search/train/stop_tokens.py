"""Finds the tokens with which a chat template ends an answer."""

from __future__ import annotations

import re
from typing import Any

from vram_search.train.tokenizer import chat_renderer, special_tokens

_ANSWER = "an answer of 7 words"


def stop_tokens(tokenizer: Any, date: str) -> list[str]:
    """Returns the special tokens that follow an answer, then the tokenizer's own end of text.

    A tokenizer of a base model may end texts with another token than the template ends turns.

    Args:
        date: date for templates that put today's into the prompt.
    """
    found: list[str] = []
    if tokenizer.chat_template is not None:
        turns = [{"role": "user", "content": "a question"}]
        turns.append({"role": "assistant", "content": _ANSWER})
        text = chat_renderer(tokenizer, date)(turns, None, False)
        names = sorted({*special_tokens(tokenizer)}, key=len, reverse=True)
        pattern = "|".join(re.escape(name) for name in names)
        found += re.findall(pattern, text.rpartition(_ANSWER)[2]) if names else []
    if tokenizer.eos_token is not None:
        found.append(tokenizer.eos_token)
    return list(dict.fromkeys(found))
