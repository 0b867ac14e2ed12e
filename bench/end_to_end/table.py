"""What came of a run: losses over time, and when ours had what plain TPE had at the end."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.end_to_end.records import ARMS, Arm, Record, Run
from vram_search.worker.stop_rule import FINISHED

SHARES = (0.25, 0.5, 1.0)
"""Shares of the time after which the best loss is shown."""


def best_loss(records: Iterable[Record], seconds: float = math.inf) -> float:
    """Best loss of the complete trials that had ended by then, nats per answer token; inf if none.

    A pruned trial's loss is of no full run and does not count.
    """
    return min((loss for at, loss in _complete(records) if at <= seconds), default=math.inf)


def seconds_to(records: Iterable[Record], loss: float) -> float:
    """Until a complete trial was as good; infinite where none was."""
    return min((at for at, found in _complete(records) if found <= loss), default=math.inf)


def _complete(records: Iterable[Record]) -> list[tuple[float, float]]:
    """Ends and losses of the trials that ran to their end."""
    return [
        (record.elapsed_seconds, record.eval_loss)
        for record in records
        if record.outcome == "complete" and record.eval_loss is not None
    ]


@dataclass(frozen=True)
class CatchUp:
    """When both arms of one seed first had the loss that plain TPE had at the end."""

    ours_seconds: float
    tpe_seconds: float

    @property
    def ratio(self) -> float:
        """Ours over TPE's; infinite where ours never had it."""
        return self.ours_seconds / self.tpe_seconds


def catch_up(ours: Sequence[Record], tpe: Sequence[Record]) -> CatchUp | None:
    """None where TPE completed no trial."""
    target = best_loss(tpe)
    if not math.isfinite(target):
        return None
    return CatchUp(seconds_to(ours, target), seconds_to(tpe, target))


def render(run: Run, records: Sequence[Record], *, markdown: bool = False) -> str:
    """The table of all tasks, what it was measured on, and the ratios."""
    tasks = [task for task in run.tasks if any(record.task == task for record in records)]
    if not tasks:
        return "no trial has ended"
    times = [f"{share * run.seconds:.0f} s" for share in SHARES]
    head = ["task", "arm", "trials", "complete", f"best at {times[0]}", *times[1:]]
    rows = [_row(run, records, task, arm) for task in tasks for arm in ARMS]
    table = _markdown(head, rows) if markdown else _columns(head, rows)
    return "\n\n".join([_about(run), table, *(_ratio_words(run, records, task) for task in tasks)])


def _about(run: Run) -> str:
    stopped = [task for task in run.tasks if task not in run.finished]
    return (
        f"{run.device}: {run.minutes:g} minutes a search, medians over {run.seeds} "
        f"{'seed' if run.seeds == 1 else 'seeds'}.\n"
        f"Both arms ran side by side, {run.searches} searches at a time: all shared the card and "
        "the cores\nequally, and all were slower than alone."
        + (f"\nStopped early: {', '.join(stopped)}." if stopped else "")
    )


def _row(run: Run, records: Sequence[Record], task: str, arm: Arm) -> list[str]:
    searches = [_of(records, task, arm, seed) for seed in range(run.seeds)]
    trials = statistics.median(sum(r.outcome in FINISHED for r in search) for search in searches)
    complete = statistics.median(len(_complete(search)) for search in searches)
    losses = [
        statistics.median(best_loss(search, share * run.seconds) for search in searches)
        for share in SHARES
    ]
    shown = [f"{loss:.4f}" if math.isfinite(loss) else "none" for loss in losses]
    return [task, arm, f"{trials:g}", f"{complete:g}", *shown]


def _of(records: Iterable[Record], task: str, arm: Arm, seed: int) -> list[Record]:
    return [r for r in records if (r.task, r.arm, r.seed) == (task, arm, seed)]


def _ratio_words(run: Run, records: Sequence[Record], task: str) -> str:
    found = [
        catch_up(_of(records, task, "ours", seed), _of(records, task, "tpe", seed))
        for seed in range(run.seeds)
    ]
    pairs = [pair for pair in found if pair is not None]
    if not pairs:
        return f"{task}: plain TPE completed no trial."
    ours, tpe, ratio = (
        statistics.median(getattr(pair, name) for pair in pairs)
        for name in ("ours_seconds", "tpe_seconds", "ratio")
    )
    each = ", ".join("no trial of TPE" if p is None else _number(p.ratio, ".2f") for p in found)
    return (
        f"{task}: the loss that plain TPE had at the end, ours had after {_number(ours, '.0f')} s, "
        f"TPE after {tpe:.0f} s.\nRatio of these times, median: {_number(ratio, '.2f')}; "
        f"by seed: {each}."
    )


def _number(value: float, form: str) -> str:
    return format(value, form) if math.isfinite(value) else "never"


def _columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned; words to the left, figures to the right."""
    lines = [head, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---", "---", *(["---:"] * (len(head) - 2))]
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, rule, *rows])
