"""Writes a study file from the fields of the new-study form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from vram_search.errors import InputError

FIELDS = ("study", "model", "train", "card")
"""Fields that must be filled in."""


def study_text(form: Mapping[str, str]) -> str:
    """The YAML of a study: name, model, rows, card, and a budget of hours or trials.

    Raises:
        InputError: a field is empty, or hours or trials are no number.
    """
    missing = [name for name in FIELDS if not form.get(name, "").strip()]
    if missing:
        raise InputError(f"not filled in: {', '.join(missing)}", "every field is needed")
    values = {name: form[name].strip() for name in FIELDS}
    budget: dict[str, Any] = {}
    for name, kind in (("hours", float), ("trials", int)):
        if text := form.get(name, "").strip():
            try:
                budget[name] = kind(text)
            except ValueError:
                raise InputError(
                    f"{name} {text[:20]!r} is not a number", "write it like 8"
                ) from None
    study: dict[str, Any] = {
        "study": values["study"],
        "model": {"model_name_or_path": values["model"]},
        "dataset": {"train": values["train"]},
        "card": values["card"],
        "budget": budget or {"hours": 8.0},
    }
    return yaml.safe_dump(study, sort_keys=False, allow_unicode=True)
