"""The report's words: the data's facts, the studies of the database."""

from __future__ import annotations

from vram_search.report.figures import card_title, measured_on, required_bytes
from vram_search.report.page.report_data import ReportData
from vram_search.report.words import hyperparameter_words, plan_words
from vram_search.spec.dataset import short_name
from vram_search.store import TrialRecord
from vram_search.units import format_bytes

Fact = tuple[str, str]


def summary_rows(data: ReportData) -> list[Fact]:
    """The search, its data and card, and its results."""
    study, counts = data.study, _counts(data)
    facts = [
        ("model", _model_words(data)),
        ("card", card_title(study)),
        ("trials", ", ".join(f"{count} {name}" for name, count in counts.items()) or "none yet"),
        ("imported" if study.is_imported else "from, to", _period(data)),
        (
            "ran on",
            ", ".join(sorted({measured_on(t) for t in data.trials if t.device})) or "unknown",
        ),
        ("data", _data_words(data)),
    ]
    if data.limit_bytes is not None:
        facts.insert(2, ("limit", f"{format_bytes(data.limit_bytes)} for the allocator"))
    if (spot := data.sweet_spot) is not None:
        facts += [("best", trial_words(spot.best))]
        if spot.trial.number != spot.best.number:
            facts += [("sweet spot", trial_words(spot.trial))]
    versions = next((t.versions for t in reversed(data.trials) if t.versions), {})
    if versions:
        facts.append(("versions", ", ".join(f"{name} {v}" for name, v in versions.items())))
    return facts


def trial_words(trial: TrialRecord) -> str:
    """A trial's settings in one line."""
    words = [hyperparameter_words(trial.hyperparameters)]
    if trial.plan is not None:
        words.append(plan_words(trial.plan))
    return f"trial {trial.number}: {'; '.join([*words, _required(trial)])}"


def studies_table(data: ReportData) -> list[list[str]]:
    """All studies with a complete trial: name, model, parameters, losses, bytes, data."""
    rows = []
    for best in data.bests:
        trial, bits = best.trial, best.trial.bits_per_byte
        rows.append(
            [
                best.name if best.name == best.study.name else f"{best.study.name}: {best.name}",
                best.model,
                f"{best.parameters:,}" if best.parameters else "unknown",
                f"{trial.value:.4f}",
                "-" if bits is None else f"{bits:.4f}",
                _required(trial),
                best.study.data_hash[:12],
            ]
        )
    return rows


def _model_words(data: ReportData) -> str:
    model = data.study.model
    parameters = model.get("parameters")
    size = f", {parameters:,} parameters" if parameters else ""
    return f"{model.get('name', 'unknown')}{size}"


def _data_words(data: ReportData) -> str:
    """The files of the rows; their hash tells studies with the same rows."""
    dataset = data.study.spec.get("dataset") or {}
    files = dataset.get("train")
    names = files if isinstance(files, list) else [files]
    known = ", ".join(short_name(name) for name in names if isinstance(name, str))
    return f"{known} (hash {data.study.data_hash})" if known else data.study.data_hash


def _counts(data: ReportData) -> dict[str, int]:
    counts: dict[str, int] = {}
    for trial in data.trials:
        name = trial.outcome or "running"
        counts[name] = counts.get(name, 0) + 1
    return counts


def _period(data: ReportData) -> str:
    if not data.trials:
        return "-"
    began = min(trial.started_at for trial in data.trials).astimezone()
    ended = max(trial.finished_at or trial.started_at for trial in data.trials).astimezone()
    if data.study.is_imported:
        return f"{ended:%Y-%m-%d %H:%M}"
    return f"{began:%Y-%m-%d %H:%M} to {ended:%Y-%m-%d %H:%M}"


def _required(trial: TrialRecord) -> str:
    size, origin = required_bytes(trial)
    return "VRAM unknown" if size is None else f"{format_bytes(size)} {origin}"
