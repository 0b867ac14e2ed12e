"""Where an imported trial came from and what is unknown of it, in words."""

from __future__ import annotations

import textwrap
from typing import Any

from vram_search.units import format_bytes

WIDTH = 79
_SOURCES = {
    "llamafactory": "LLaMA-Factory",
    "axolotl": "Axolotl",
    "trl": "TRL",
    "trainer": "transformers' Trainer",
    "csv": "a table by hand",
    "wandb": "a W&B export",
    "mlflow": "an MLflow export",
    "optuna": "an Optuna export",
}


def provenance_lines(provenance: dict[str, Any] | None) -> list[str]:
    """Lines for `show` and `best`; none for a trial of a search."""
    if provenance is None:
        return []
    fields = [
        ("imported", f"run {provenance['run']} of {_SOURCES[provenance['source']]}, no search"),
        ("from", provenance["path"]),
        ("model", provenance["model"]["name"]),
        ("reported", ", ".join(_reported(*item) for item in provenance["reported"].items())),
        ("settings", ", ".join(f"{key} {value}" for key, value in provenance["settings"].items())),
        ("unknown", ", ".join(provenance["unknown"])),
        *(("note", note) for note in provenance["notes"]),
    ]
    return [line for name, text in fields if text for line in _wrapped(name, text)]


def _reported(name: str, value: float) -> str:
    return f"{name} {format_bytes(value) if name.endswith('_bytes') else f'{value:.4f}'}"


def _wrapped(name: str, text: str) -> list[str]:
    # A folder's name may hold what a terminal would obey.
    printable = "".join(sign if sign.isprintable() else "?" for sign in text)
    return textwrap.wrap(
        printable,
        WIDTH,
        initial_indent=f"  {name:<17}",
        subsequent_indent=" " * 19,
        break_on_hyphens=False,
    )
