"""Tables of trials for a terminal of 80 columns."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from vram_search.report.dimensions import shown_dimensions
from vram_search.report.figures import peak, run_seconds
from vram_search.report.trial_fields import StudyFields, TrialFields
from vram_search.report.words import bytes_caption, kind_words, loss_cell
from vram_search.report.wrapping import WIDTH, terminal_width
from vram_search.spec.hyperparameters import Dimension
from vram_search.units import GIB, format_duration

OUTCOME_STYLES = {
    "complete": "green",
    "pruned": "dim",
    "oom": "red",
    "infeasible": "magenta",
    "diverged": "red",
    "lost": "dim",
    "unknown": "dim",
}
HEADER_STYLE = "bold"

_WIDE = 100
"""Columns of a terminal from which on headings are written out."""
_LEFT_OUT_IF_NARROW = ("optim", "cutoff_len")
_LEAST_FOLDED = 8
"""Columns that a folded column keeps, however narrow the terminal is."""

Styled = Callable[[str, str], str]
"""Returns a text in a style: `styled(text, style)`."""


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        is_right: True aligns its cells to the right.
        folds: True if long cells continue on the next line when the terminal is too narrow.
        cells: without control characters.
        styles: style of each cell; empty for none.
    """

    name: str
    cells: list[str]
    is_right: bool = False
    folds: bool = False
    styles: Sequence[str] = ()

    @property
    def width(self) -> int:
        """Columns of the terminal that its longest cell takes."""
        return max(map(_width, (self.name, *self.cells)))


def trial_table(
    trials: Sequence[TrialFields], study: StudyFields, width: int = WIDTH
) -> list[Column]:
    """Builds the columns of a table with one row per trial.

    Imported runs have their name too, and their kind if one is no plain supervised LoRA training.

    Args:
        width: columns of the terminal; below 80, settings that rarely decide are left out; from
            100 on, headings are not shortened.
    """
    columns = [_right("#", [str(trial.number) for trial in trials])]
    if study.is_imported:
        runs = [trial.provenance["run"] if trial.provenance else "" for trial in trials]
        columns.append(_folding("run", runs))
    kinds = [kind_words(trial) for trial in trials]
    if any(kinds):
        columns.append(_folding("kind", kinds))
    outcomes = [trial.outcome or "running" for trial in trials]
    styles = [OUTCOME_STYLES.get(outcome, "cyan") for outcome in outcomes]
    columns.append(Column("outcome", outcomes, styles=styles))
    columns.append(_right(study.ranked_by.short, [loss_cell(trial.value) for trial in trials]))
    for one in _dimensions(trials, width):
        cells = [one.shown(one.value_in(trial.hyperparameters)) for trial in trials]
        heading = one.heading if width >= _WIDE else one.short
        if one.is_name:
            columns.append(_folding(heading, cells))
        else:
            columns.append(Column(heading, cells, is_right=one.kind != "log"))
    columns.append(_right("GiB", [_gib(trial) for trial in trials]))
    seconds = [format_duration(run_seconds(trial)).replace(" ", "") for trial in trials]
    columns.append(_right("time", seconds))
    return columns


def table_lines(
    trials: Sequence[TrialFields],
    study: StudyFields,
    title: str,
    styled: Styled,
    shown: Callable[[str], str],
) -> list[str]:
    """Returns a table of trials with a title, and below it where the bytes come from.

    Names are printed as they are, whatever brackets they hold, without control characters.

    Args:
        styled: gives the header and the outcomes their colours.
        shown: removes control characters from foreign text.
    """
    width = terminal_width()
    columns = [
        replace(column, cells=[shown(cell) for cell in column.cells])
        for column in trial_table(trials, study, width)
    ]
    widths = _fitting_widths(columns, width)
    lines = [*_fold(shown(title), width)]
    header = [
        _aligned(column.name, size, column.is_right)
        for column, size in zip(columns, widths, strict=True)
    ]
    lines.append(" ".join(styled(cell, HEADER_STYLE) for cell in header).rstrip())
    for row in range(len(trials)):
        lines += _row_lines(columns, widths, row, styled)
    notes = [*_shortened(trials, width), bytes_caption(trials, study), *_begun_again(trials)]
    for note in notes:
        lines += _fold(shown(note), width)
    return lines


def _dimensions(trials: Sequence[TrialFields], width: int) -> list[Dimension]:
    """The hyperparameters that have a column in a terminal of this width."""
    left_out = _LEFT_OUT_IF_NARROW if width < WIDTH else ()
    return [one for one in shown_dimensions(trials) if one.name not in left_out]


def _shortened(trials: Sequence[TrialFields], width: int) -> list[str]:
    """Says what the shortened headings mean."""
    if width >= _WIDE or not trials:
        return []
    short = [one for one in _dimensions(trials, width) if one.short != one.heading]
    return [", ".join(f"{one.short}: {one.name}" for one in short)] if short else []


def _right(name: str, cells: Sequence[str]) -> Column:
    return Column(name, list(cells), is_right=True)


def _folding(name: str, cells: Sequence[str]) -> Column:
    return Column(name, [cell.replace("\n", " ") for cell in cells], folds=True)


def _fitting_widths(columns: Sequence[Column], width: int) -> list[int]:
    """Returns the columns' widths; folding ones are narrowed, the widest first, until all fit."""
    widths = [column.width for column in columns]
    while sum(widths) + len(widths) - 1 > width:
        folding = [i for i, column in enumerate(columns) if column.folds]
        widest = max(folding, key=lambda i: widths[i], default=None)
        if widest is None or widths[widest] <= _LEAST_FOLDED:
            break
        widths[widest] -= 1
    return widths


def _row_lines(
    columns: Sequence[Column], widths: Sequence[int], row: int, styled: Styled
) -> Iterator[str]:
    folded = [
        list(_fold(column.cells[row], size)) if column.folds else [column.cells[row]]
        for column, size in zip(columns, widths, strict=True)
    ]
    for number in range(max(map(len, folded))):
        cells = []
        for column, size, texts in zip(columns, widths, folded, strict=True):
            text = texts[number] if number < len(texts) else ""
            cell = _aligned(text, size, column.is_right)
            cells.append(styled(cell, column.styles[row]) if column.styles and text else cell)
        yield " ".join(cells).rstrip()


def _aligned(text: str, width: int, is_right: bool) -> str:
    spaces = " " * (width - _width(text))
    return spaces + text if is_right else text + spaces


def _fold(text: str, width: int) -> Iterator[str]:
    """Yields a text's lines of at most `width` columns; only longer words are cut."""
    line = ""
    for word in text.split(" "):
        longer = f"{line} {word}" if line else word
        if _width(longer) <= width:
            line = longer
            continue
        if line:
            yield line
        line = word
        while _width(line) > width:
            cut = next(n for n in range(len(line), 0, -1) if n == 1 or _width(line[:n]) <= width)
            yield line[:cut]
            line = line[cut:]
    yield line


def _width(text: str) -> int:
    """Returns the columns of a terminal that a text takes: Chinese characters take two."""
    return sum(
        0 if unicodedata.combining(char) else 1 + (unicodedata.east_asian_width(char) in "WF")
        for char in text
    )


def _begun_again(trials: Sequence[TrialFields]) -> list[str]:
    """Says of rows that are alike which was stopped; a lost trial's outcome says it already."""
    stopped = {trial.number for trial in trials if trial.outcome == "pruned"}
    pairs = [f"{t.retry_of} as {t.number}" for t in trials if t.retry_of in stopped]
    return [f"stopped too early and restarted: {', '.join(pairs)}"] if pairs else []


def _gib(trial: TrialFields) -> str:
    """The trial's peak; ~ marks a prediction."""
    size, origin = peak(trial)
    if size is None:
        return "-"
    return f"{'~' if origin == 'predicted' else ''}{size / GIB:.2f}"
