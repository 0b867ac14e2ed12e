"""Tables of `bench.gpu_trials` from what its trials recorded; needs no GPU."""

from __future__ import annotations

import statistics
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vram_search.store import OUTCOMES, TrialRecord
from vram_search.units import MIB, format_bytes

WIDTH = 80
PHASES = ("load", "probe", "train", "eval", "save", "oom", "plan", "between")
"""Phases of a trial; during `plan` and `between` the card waits, with the base model on it."""
START = ("imports", "load")
"""Phases of the wait for a new process; during `imports` nothing is held on the card."""
FINISHED = ("complete", "pruned")
"""Outcomes of trials that passed their probe and were not cut short."""
START_SECONDS = 1.0
"""A trial that waited longer for its process had one started for it."""
NOT_IN_THE_ALLOCATOR = ("allocator_slack", "context")
"""Predicted parts that are outside the allocated peak."""


@dataclass(frozen=True)
class TrialFigures:
    """One trial of the bench; the fields are those of `TrialRecord`, empty where it has None."""

    number: int
    outcome: str
    hyperparameters: dict[str, Any]
    plan: dict[str, Any] = field(default_factory=dict)
    predicted: dict[str, Any] = field(default_factory=dict)
    measured: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    error: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, record: TrialRecord) -> TrialFigures:
        return cls(
            record.number,
            record.outcome or "lost",
            record.hyperparameters,
            record.plan or {},
            record.predicted or {},
            record.measured or {},
            record.seconds or {},
            record.error or {},
        )

    def spent(self, *phases: str) -> float:
        """Seconds that the card was held; planning what turns out infeasible holds nothing, and
        counts as `between` of the next trial."""
        if self.outcome == "infeasible":
            return 0.0
        return sum(self.seconds.get(phase, 0.0) for phase in phases)


@dataclass(frozen=True)
class Table:
    """Text cells; the first column is the rows' names."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def as_text(self) -> str:
        """Aligned columns, for a terminal."""
        lines = [self.header, *self.rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.header))]
        body = [
            "  ".join(
                [line[0].ljust(widths[0])]
                + [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
            ).rstrip()
            for line in lines
        ]
        return "\n".join([*textwrap.wrap(self.title, WIDTH), *body])

    def as_markdown(self) -> str:
        """For docs/experiments.md."""
        rule = ["---", *["---:"] * (len(self.header) - 1)]
        lines = ["| " + " | ".join(line) + " |" for line in (self.header, rule, *self.rows)]
        return "\n".join([*textwrap.wrap(self.title, 110), "", *lines])


def summary(trials: Sequence[TrialFigures]) -> dict[str, Any]:
    """What came of one run. Ratios and bytes are (smallest, median, largest), None where no trial
    recorded what they are made of.

    Bytes that trials left behind are `leaked_bytes`; `prediction_error` is predicted / measured
    allocated bytes - 1 of the finished trials.
    """
    outcomes = Counter(trial.outcome for trial in trials)
    finished = [trial for trial in trials if trial.outcome in FINISHED]
    gpu_seconds = {phase: sum(trial.spent(phase) for trial in trials) for phase in PHASES}
    total = sum(gpu_seconds.values())
    return {
        "trials": len(trials),
        "outcomes": {name: outcomes[name] for name in OUTCOMES},
        "gpu_seconds": gpu_seconds,
        "gpu_seconds_total": total,
        "gpu_seconds_per_finished": total / len(finished) if finished else None,
        "oom_own_seconds": spread([own for own, _ in oom_costs(trials)]),
        "oom_start_seconds": spread([t.spent(*START) for _, t in oom_costs(trials) if t]),
        "oom_load_seconds": spread([t.spent("load") for _, t in oom_costs(trials) if t]),
        "probe_over_full": spread(ratios(finished, "probe_allocated_bytes")),
        "prediction_error": spread([ratio - 1 for ratio in predicted_over_measured(finished)]),
        "leaked_bytes": spread(recorded(trials, "leaked_bytes")),
        "base_changed": sum(t.measured.get("base_intact") is False for t in trials),
        "probe_misses": sum(bool(t.measured.get("probe_miss")) for t in trials),
    }


def oom_costs(trials: Sequence[TrialFigures]) -> list[tuple[float, TrialFigures | None]]:
    """Returns the seconds of each trial that ended out of memory, and the trial that waited for the
    new process; None after the last trial."""
    costs: list[tuple[float, TrialFigures | None]] = []
    for place, trial in enumerate(trials):
        if trial.outcome == "oom":
            own = trial.spent("probe", "train", "eval", "save", "oom")
            following = (t for t in trials[place + 1 :] if t.outcome != "infeasible")
            costs.append((own, next(following, None)))
    return costs


def spread(values: Sequence[float]) -> tuple[float, float, float] | None:
    """Smallest, median, largest."""
    return (min(values), statistics.median(values), max(values)) if values else None


def recorded(trials: Sequence[TrialFigures], name: str) -> list[float]:
    return [t.measured[name] for t in trials if t.measured.get(name) is not None]


def ratios(trials: Sequence[TrialFigures], name: str) -> list[float]:
    """Ratios of a measured figure to the allocated peak of the whole run."""
    return [
        t.measured[name] / t.measured["allocated_bytes"]
        for t in trials
        if t.measured.get(name) and t.measured.get("allocated_bytes")
    ]


def predicted_over_measured(trials: Sequence[TrialFigures]) -> list[float]:
    return [
        t.predicted["allocated_bytes"] / t.measured["allocated_bytes"]
        for t in trials
        if t.predicted.get("allocated_bytes") and t.measured.get("allocated_bytes")
    ]


def part_errors(trials: Sequence[TrialFigures]) -> list[dict[str, Any]]:
    """Predicted - measured bytes of each part, medians over finished trials; largest part first.

    `share_of_peak` is the median of the difference over the trial's measured allocated peak.
    """
    both = [
        (predicted_parts(t.predicted["parts"]), t.measured["parts"], t.measured["allocated_bytes"])
        for t in trials
        if t.outcome in FINISHED and t.predicted.get("parts") and t.measured.get("parts")
    ]
    names = {name for predicted, measured, _ in both for name in (*predicted, *measured)}
    rows = []
    for name in names:
        triples = [(p.get(name, 0), m.get(name, 0), peak) for p, m, peak in both]
        rows.append(
            {
                "part": name,
                "predicted_bytes": statistics.median(p for p, _, _ in triples),
                "measured_bytes": statistics.median(m for _, m, _ in triples),
                "difference_bytes": statistics.median(p - m for p, m, _ in triples),
                "share_of_peak": statistics.median((p - m) / peak for p, m, peak in triples),
            }
        )
    return sorted(rows, key=lambda row: (-row["measured_bytes"], row["part"]))


def predicted_parts(parts: Mapping[str, int]) -> dict[str, int]:
    return {name: size for name, size in parts.items() if name not in NOT_IN_THE_ALLOCATOR}


def between_trials(
    on: Sequence[TrialFigures], off: Sequence[TrialFigures]
) -> dict[str, float | None]:
    """Median seconds between two trials of one process, and what a process of its own for each
    would make of them.

    Args:
        on: of the search; trials that had a process started for them are left out of `between`.
        off: their starts count too: each loads the same base model.
    """
    starts = [start for t in (*on, *off) if (start := t.spent(*START)) > START_SECONDS]
    gaps = [
        t.spent("between", "plan", *START)
        for t in on
        if "between" in t.seconds and t.spent(*START) <= START_SECONDS
    ]
    between = statistics.median(gaps) if gaps else None
    restart = statistics.median(starts) if starts else None
    ratio = (between + restart) / between if between and restart else None
    return {"between": between, "start": restart, "ratio": ratio}


def trial_tables(report: Mapping[str, Any]) -> list[Table]:
    """The tables of a whole bench.

    Args:
        report: `title`, `planned` (trials that were asked for: `on` and `off`), and the figures of
            both runs as `on` and `off`, in the order they ran; a point has one number in both.
    """
    on = [TrialFigures(**trial) for trial in report["on"]]
    off = [TrialFigures(**trial) for trial in report["off"]]
    tried = {trial.number for trial in off}
    same = [trial for trial in on if trial.number in tried]
    found = [
        outcome_table(report, [summary(on), summary(same), summary(off)]),
        _between_table(between_trials(on, off)),
    ]
    if rows := part_errors(on):
        found.insert(1, _part_table(rows))
    return found


def outcome_table(report: Mapping[str, Any], columns: Sequence[Mapping[str, Any]]) -> Table:
    """Outcomes, seconds and peaks: planner on, on for the points of the other run, off."""

    def row(name: str, cells: Sequence[str]) -> list[str]:
        return [name, *cells]

    planned = report["planned"]
    done = [str(c["trials"]) for c in columns]
    rows = [
        row("trials", [f"{done[0]} of {planned['on']}", done[1], f"{done[2]} of {planned['off']}"])
    ]
    rows += [row(name, [str(c["outcomes"][name]) for c in columns]) for name in OUTCOMES]
    rows += [
        row(f"GPU s: {phase}", [f"{c['gpu_seconds'][phase]:.1f}" for c in columns])
        for phase in PHASES
    ]
    rows += [
        row("GPU s: all", [f"{c['gpu_seconds_total']:.1f}" for c in columns]),
        row("  a finished trial", [_number(c["gpu_seconds_per_finished"], ".1f") for c in columns]),
        row("  an oom, median", [_number(_at(c["oom_own_seconds"], 1), ".1f") for c in columns]),
        row(
            "  + its new process", [_number(_at(c["oom_start_seconds"], 1), ".1f") for c in columns]
        ),
        row(
            "    of it on the card",
            [_number(_at(c["oom_load_seconds"], 1), ".1f") for c in columns],
        ),
    ]
    for place, word in enumerate(("min", "median", "max")):
        cells = [_number(_at(c["probe_over_full"], place), ".4f") for c in columns]
        rows.append(row(f"probe / full peak, {word}", cells))
    for place, word in enumerate(("min", "median", "max")):
        cells = [_number(_at(c["prediction_error"], place), "+.2%") for c in columns]
        rows.append(row(f"prediction error, {word}", cells))
    rows += [
        row("probe misses", [str(c["probe_misses"]) for c in columns]),
        row("leak, largest", [_size(_at(c["leaked_bytes"], 2)) for c in columns]),
        row("base changed", [str(c["base_changed"]) for c in columns]),
    ]
    header = ["", "planner on", "on, the same", "planner off"]
    return Table(report["title"], header, rows)


def _part_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    cells = [
        [
            row["part"],
            f"{row['predicted_bytes'] / MIB:.1f}",
            f"{row['measured_bytes'] / MIB:.1f}",
            f"{row['difference_bytes'] / MIB:+.1f}",
            f"{row['share_of_peak']:+.2%}",
        ]
        for row in rows
    ]
    header = ["part, MiB", "predicted", "measured", "difference", "of the peak"]
    return Table("Parts of the peak, planner on: medians of the finished trials.", header, cells)


def _between_table(found: Mapping[str, float | None]) -> Table:
    rows = [
        ["between trials of one process, median", _number(found["between"], ".2f")],
        ["start of a process with its base model, median", _number(found["start"], ".2f")],
        ["a fresh process per trial / one process", _number(found["ratio"], ".1f")],
    ]
    return Table("Between trials.", ["", "seconds"], rows)


def _at(values: Sequence[float] | None, place: int) -> float | None:
    return None if values is None else values[place]


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _size(count: float | None) -> str:
    return format_bytes(count) if count else ("-" if count is None else "0 B")
