"""Chat templates by the names that LLaMA-Factory and Axolotl give them, or from a file."""

from __future__ import annotations

import difflib
from pathlib import Path

from vram_search.errors import InputError, reason_of
from vram_search.resources import shipped

ALIASES = {
    **dict.fromkeys(("qwen3_nothink", "yi", "smollm"), "chatml"),
    **dict.fromkeys(("qwen_25", "qwen25", "qwen2", "qwen2.5"), "qwen"),
    **dict.fromkeys(("llama-3", "llama3.1", "llama31"), "llama3"),
    **dict.fromkeys(("llama-2",), "llama2"),
    **dict.fromkeys(("inst", "mistral_v1", "mistral_v2v3", "mistral-7b"), "mistral"),
    **dict.fromkeys(("gemma3",), "gemma"),
    **dict.fromkeys(("phi_3", "phi_35", "phi3", "phi-3"), "phi"),
    **dict.fromkeys(("phi_4", "phi-4"), "phi4"),
    **dict.fromkeys(("deepseek_v2",), "deepseek"),
    **dict.fromkeys(("deepseek_v3",), "deepseek3"),
}
"""Other names of the shipped templates."""


def template_names() -> list[str]:
    """Every name that `dataset.template` takes."""
    return sorted([file.stem for file in shipped("configs", "templates").glob("*.jinja")])


def template_text(name: str) -> str:
    """The Jinja text of a template.

    Args:
        name: name of a shipped template, or the path of a file.

    Raises:
        InputError: there is none of that name, or the file cannot be read.
    """
    file = Path(name)
    if not file.is_absolute():
        file = shipped("configs", "templates", f"{ALIASES.get(name, name)}.jinja")
        if not file.is_file():
            known = template_names()
            close = difflib.get_close_matches(name, [*known, *ALIASES], n=3)
            raise InputError(
                f"dataset.template: there is no template {name!r}",
                f"did you mean {' or '.join(close)}?"
                if close
                else f"there are {', '.join(known)}; or give a .jinja file",
            )
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read ({reason_of(error)})") from None
