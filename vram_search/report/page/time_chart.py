"""Where the time went: seconds by phase and outcome."""

from __future__ import annotations

from vram_search.report.page.report_data import ReportData
from vram_search.report.page.scales import linear
from vram_search.report.page.svg import LETTER_WIDTH, RIGHT, WIDTH, Chart, box, line, text
from vram_search.report.words import phase_word
from vram_search.store import OUTCOMES
from vram_search.units import format_duration, percent

PHASES = ("plan", "load", "probe", "train", "eval", "save")
PHASE_STYLES = {"plan": 7, "load": 5, "probe": 1, "train": 0, "eval": 2, "save": 4}
_OTHER_STYLE = 8
_NAMES_WIDTH, _TOTALS_WIDTH, _ROW, _BAR = 76, 84, 30, 20
_HOUR, _MINUTE = 3600.0, 60.0


def seconds_by_phase(data: ReportData) -> dict[str, dict[str, float]]:
    """Outcome -> phase -> seconds over all trials; outcomes and phases without any left out."""
    found: dict[str, dict[str, float]] = {}
    for outcome in OUTCOMES:
        phases: dict[str, float] = {}
        for trial in data.trials:
            if trial.outcome == outcome:
                for phase, seconds in (trial.seconds or {}).items():
                    phases[phase] = phases.get(phase, 0.0) + (seconds or 0.0)
        kept = {phase: seconds for phase, seconds in phases.items() if seconds > 0}
        if kept:
            found[outcome] = {phase: kept[phase] for phase in phase_names({outcome: kept})}
    return found


def phase_names(found: dict[str, dict[str, float]]) -> list[str]:
    """Every phase that took time in any outcome, in the order of a trial's life."""
    names = {phase for phases in found.values() for phase in phases}
    return [*(p for p in PHASES if p in names), *sorted(names - set(PHASES))]


def time_chart(data: ReportData) -> Chart:
    """A stacked bar an outcome."""
    title = "Time by phase"
    found = seconds_by_phase(data)
    if not found:
        return Chart("time", title, "", 0, "", "No times are recorded.")
    longest = max(sum(phases.values()) for phases in found.values())
    unit, name = (_HOUR, "hours") if longest >= 2 * _HOUR else (_MINUTE, "minutes")
    x = linear([0.0, longest / unit], _NAMES_WIDTH, WIDTH - RIGHT - _TOTALS_WIDTH, pad=0.0)
    height = len(found) * _ROW + 46
    bottom, parts = height - 40, []
    for value, label in x.labels.items():
        at = x.pixel(value)
        parts.append(line(at, 2, at, bottom, "grid"))
        parts.append(text(at, bottom + 15, label, "tick middle"))
    parts.append(text((x.start + x.end) / 2, bottom + 33, name, "name middle"))
    for row, (outcome, phases) in enumerate(found.items()):
        y, begin, total = 6 + row * _ROW, 0.0, sum(phases.values())
        parts.append(text(_NAMES_WIDTH - 8, y + 15, outcome, "end"))
        for phase, seconds in phases.items():
            left, right = x.pixel(begin / unit), x.pixel((begin + seconds) / unit)
            word, share = phase_word(phase), percent(seconds / total)
            tip = f"{outcome}, {word}: {format_duration(seconds)}, {share}"
            parts.append(box(left, y, right - left, _BAR, f"part f{_style(phase)}", tip))
            if right - left > len(word) * LETTER_WIDTH + 6:
                parts.append(
                    text((left + right) / 2, y + 14, word, "on middle", "pointer-events='none'")
                )
            begin += seconds
        end = x.pixel(total / unit) + 6
        parts.append(text(end, y + 15, format_duration(total), "label halo"))
    legend = [
        (box(2, 2, 16, 12, f"f{_style(phase)}"), phase_word(phase)) for phase in phase_names(found)
    ]
    total = sum(sum(phases.values()) for phases in found.values())
    return Chart(
        "time",
        title,
        "; ".join(f"{o} {format_duration(sum(p.values()))}" for o, p in found.items()),
        height,
        "".join(parts),
        f"{format_duration(total)} in all, every trial's phases added up by outcome.",
        legend,
    )


def _style(phase: str) -> int:
    return PHASE_STYLES.get(phase, _OTHER_STYLE)
