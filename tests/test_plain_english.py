"""Words that many readers stumble over do not come back to documentation, messages and docstrings.

Checked are the pages for users, the comments of shipped YAML files, and every text of the package:
docstrings, messages, help.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import vram_search

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = Path(vram_search.__file__).parent

AVOIDED = {
    r"anew": "again",
    r"beg[aiu]ns? again|begun again": "restarted",
    r"in vain": "could not be allocated",
    r"is there none|be it|none is": "an ordinary clause",
    r"(?:says|saying|said) so": "say what is said",
    r"exams?|examined on": "evaluation rows",
    r"nights? of ours|night's": "of the night, or the search",
    r"nonsense": "an invalid message",
    r"thereof|whereof|therein|wherein|whereby": "a clause with `of` or `that`",
    r"of its own accord": "by itself",
    r"told (?:as|apart|to Optuna)": "reported to Optuna",
    r"(?:lies?|stands?|laid) beside": "next to, in the same folder",
    r"likewise": "also",
    r"nobody's": "of no one; name the owner",
    r"plays (?:a|an|the) (?:\w+ )?card|plays \d+ GB": "emulates",
    r"had come so far": "had reached this point",
    r"to be expected": "expects",
}
"""A pattern of whole words, and what to write instead."""

RIDDLES = r"(?:What|Whether|Whose|Of) "
"""First words of a docstring that leave its subject open: say what the thing is or does."""

PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "bench").rglob("*.md")),
    *sorted((ROOT / "configs").rglob("*.md")),
    *sorted((ROOT / "studies").rglob("*.yaml")),
    *sorted((ROOT / "configs").rglob("*.yaml")),
    *sorted((ROOT / "bench").rglob("*.yaml")),
]
GENERATED = {"cli.md", "study-file.md"}
"""Pages made from the texts of the package, which are checked where they are written."""


def avoided_words(text: str) -> list[str]:
    """The words of a text that are on the list, each with what to write instead."""
    text = " ".join(text.split())
    found = []
    for pattern, better in AVOIDED.items():
        for match in re.finditer(rf"\b(?:{pattern})\b", text, re.IGNORECASE):
            around = text[max(0, match.start() - 30) : match.end() + 30]
            found.append(f"{match[0]!r} in {around!r}: {better}")
    return found


def texts(source: str) -> Iterator[tuple[int, str]]:
    """Line and text of each string in a Python file that holds words."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            parts = [part.value for part in node.values if isinstance(part, ast.Constant)]
            yield node.lineno, " ... ".join(str(part) for part in parts)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def docstrings(source: str) -> Iterator[tuple[int, str]]:
    """Line and text of the docstrings of modules, classes, functions and attributes."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Expr(value=ast.Constant(value=str(text))):
                yield node.lineno, text


FILES = sorted(PACKAGE.rglob("*.py"))


def faults_of(file: Path) -> list[str]:
    source = file.read_text("utf-8")
    riddles = [(line, text) for line, text in docstrings(source) if re.match(RIDDLES, text)]
    found = [f"line {line}: {text.splitlines()[0]}" for line, text in riddles]
    for line, text in texts(source):
        found += [f"line {line}: {fault}" for fault in avoided_words(text)]
    return found


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("The model is evaluated anew.", 1),
        ("memory that was asked for\nin vain", 1),
        ("What the exam says", 1),
        ("The example beside it, renewed in a vein; said something", 0),
        ("A GPU that plays the card", 1),
        ("A H200 that plays 16 GB; it plays a role", 1),
    ],
)
def test_words_are_found_across_lines_and_only_whole(text: str, count: int) -> None:
    assert len(avoided_words(text)) == count


def test_texts_of_a_module_are_found_in_docstrings_messages_and_formatted_strings() -> None:
    source = '"""One."""\nraise ValueError(f"{size} in {place} vain")\nNAME = "two"\n'
    assert {"One.", "two", " in  ...  vain"} <= {text for _, text in texts(source)}


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page.name not in GENERATED],
    ids=lambda page: page.relative_to(ROOT).as_posix(),
)
def test_page_is_in_plain_english(page: Path) -> None:
    assert avoided_words(page.read_text("utf-8")) == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(PACKAGE).as_posix())
def test_texts_of_the_package_are_in_plain_english(file: Path) -> None:
    assert faults_of(file) == []
