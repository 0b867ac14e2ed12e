"""The bench's figures as a table of 80 columns and as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from bench.search.metrics import Summary
from bench.search.nights import TaskResults
from bench.search.replay import setup_holds_start
from bench.search.strategies import LEVERS, OURS, TPE
from vram_search.units import format_bytes

HEAD = (
    f"{'strategy':<14}{'s to 1 %':>9}{'quartiles':>14}{'regret':>9}{'last':>9}"
    f"{'oom':>7}{'right':>7}{'runs':>6}{'full':>5}"
)


def table(results: TaskResults) -> str:
    """One task."""
    summaries = results.summaries()
    return "\n".join([*_about(results), HEAD, *map(_line, summaries), *_ratios(summaries)])


LEGEND = """\
s to 1 %: GPU seconds until the incumbent is within 1 % of the table's best (median)
regret:   mean of the winner's best checkpoint over the table's best, at the night's end
last:     the same of its last checkpoint; oom: GPU time on trials that do not fit
right:    nights whose sweet spot is within one standard error of the table's best
runs:     trials that took GPU time; full: those that reached their end
Each proposal trains the nearest configuration of the table left: no surrogate."""


def _about(results: TaskResults) -> list[str]:
    setting = results.setting
    configs = setting.table.configs
    limit, best = setting.limit_bytes, setting.table.best(setting.limit_bytes)
    over = sum(config.bytes > limit for config in configs)
    noise = setting.table.seed_noise()
    counts = [len(nights) for nights in results.results.values()]
    seeds = f"{min(counts)} to {max(counts)}" if min(counts) < max(counts) else max(counts)
    drawn = "" if setting.part == 1 else f" (each night has {setting.part:.0%})"
    start = "in setup_seconds" if _holds_start(results) else f"{setting.costs.start:g} s"
    return [
        f"task {setting.table.task}: {len(configs)} configurations{drawn}, {over} above "
        f"{format_bytes(limit)}; best {best.loss():.4f}",
        f"night {setting.night:.0f} GPU s, {seeds} seeds; process start {start}; "
        f"noise between seeds {'unknown' if noise is None else f'{noise:.4f}'}",
    ]


def _holds_start(results: TaskResults) -> bool:
    return setup_holds_start(results.setting.table, results.setting.costs)


def _line(summary: Summary) -> str:
    low, middle, high = summary.seconds_to_good
    return (
        f"{summary.strategy:<14}{_seconds(middle):>9}{_seconds(low) + '-' + _seconds(high):>14}"
        f"{summary.mean_regret:>9.4f}{summary.mean_last_regret:>9.4f}"
        f"{summary.infeasible_share:>7.1%}{summary.right_share:>7.0%}"
        f"{summary.trials:>6.0f}{summary.complete:>5.0f}"
    )


def _seconds(value: float) -> str:
    return f"{value:.0f}" if math.isfinite(value) else "never"


def _ratios(summaries: Sequence[Summary]) -> list[str]:
    lines = [f"{name}: {_times(value)}" for name, value in ratios(summaries).items()]
    mine = next((s for s in summaries if s.strategy == OURS), None)
    if mine is not None and mine.worse_than_random is not None:
        lines.append(f"nights in which ours ends worse than random: {mine.worse_than_random}")
    return lines


def _times(value: float | None) -> str:
    return "the other never gets there" if value is None else f"{value:.2f} x"


def ratios(summaries: Sequence[Summary]) -> dict[str, float | None]:
    """Median seconds to 1 % of ours over those of TPE and of the best peer.

    Empty where ours never gets there; None where the other does not within the night.
    """
    medians = {s.strategy: s.seconds_to_good[1] for s in summaries if s.strategy not in LEVERS}
    ours = medians.pop(OURS, math.inf)
    if not medians or not math.isfinite(ours):
        return {}
    peer = min(medians, key=lambda name: medians[name])
    others = {f"ours / {TPE}": TPE} if TPE in medians else {}
    others[f"ours / best peer ({peer})"] = peer
    return {
        words: ours / medians[name] if math.isfinite(medians[name]) else None
        for words, name in others.items()
    }


def as_json(results: Sequence[TaskResults], left_out: Mapping[str, list[str]]) -> dict[str, Any]:
    """Everything but the curves; infinite figures are null."""
    return {
        "left_out": dict(left_out),
        "tasks": [
            {
                "task": one.setting.table.task,
                "configurations": len(one.setting.table.configs),
                "limit_bytes": one.setting.limit_bytes,
                "night_seconds": one.setting.night,
                "process_start_in_setup_seconds": _holds_start(one),
                "best_loss": one.setting.table.best(one.setting.limit_bytes).loss(),
                "seed_noise": one.setting.table.seed_noise(),
                "strategies": [_finite(asdict(summary)) for summary in one.summaries()],
                "ratios": ratios(one.summaries()),
                "nights": [
                    _finite({k: v for k, v in asdict(night).items() if k != "incumbents"})
                    for nights in one.results.values()
                    for night in nights
                ],
            }
            for one in results
        ],
    }


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
