"""The notebooks in examples/ run from the first cell to the last and print what they show."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parent.parent / "examples").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_prints_what_it_shows(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    monkeypatch.chdir(path.parent)
    names: dict[str, object] = {"__name__": "__main__"}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), str(path), "exec"), names)
            shown = ["".join(output["text"]) for output in cell["outputs"]]
            assert _words(capsys.readouterr().out) == _words("".join(shown))


def _words(text: str) -> list[str]:
    """Words of a text without its numbers; the last digits differ between processors."""
    return re.sub(r"[\d.]+", "#", text).split()


def test_there_are_notebooks() -> None:
    assert len(NOTEBOOKS) == 3
