"""The programs that export runs as a table, by the columns and states that they write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vram_search.store import Outcome


@dataclass(frozen=True)
class Export:
    """One program's export.

    Attributes:
        source: as in a trial's provenance.
        header: names that its header has, one set for each form of it.
        name: columns with the run's name, the best first.
        state: columns with the run's state.
        outcomes: state in small letters -> outcome; a state that is missing here is no run yet.
            A run that is complete and has no eval_loss is unknown in a table without states.
        seconds: columns with the run's duration.
        failed: column that is true for a run that ended with an error; empty for none.
    """

    source: str
    header: tuple[frozenset[str], ...]
    name: tuple[str, ...]
    state: tuple[str, ...]
    outcomes: Mapping[str, Outcome]
    seconds: tuple[str, ...]
    failed: str = ""


EXPORTS = (
    Export(
        "wandb",
        (frozenset({"Name", "State"}), frozenset({"name", "summary", "config"})),
        ("Name", "name"),
        ("State", "state"),
        {
            "finished": "complete",
            "crashed": "lost",
            "failed": "lost",
            "killed": "lost",
            "preempted": "lost",
            "running": "unknown",
            "preempting": "unknown",
            "": "unknown",
        },
        ("Runtime", "_runtime"),
    ),
    Export(
        "mlflow",
        (frozenset({"run_id", "status"}), frozenset({"Run ID", "Status"})),
        ("tags.mlflow.runName", "Run Name", "Name", "run_id", "Run ID"),
        ("status", "Status"),
        {"finished": "complete", "failed": "lost", "killed": "lost", "running": "unknown"},
        ("Duration",),
    ),
    Export(
        "optuna",
        (frozenset({"number", "state"}), frozenset({"Number", "State"})),
        ("number", "Number"),
        ("state", "State"),
        {"complete": "complete", "pruned": "pruned", "fail": "lost", "running": "unknown"},
        ("duration", "Duration"),
    ),
    Export(
        "ray",
        (frozenset({"trial_id", "training_iteration"}),),
        ("trial_id",),
        ("status", "done"),
        {
            "terminated": "complete",
            "true": "complete",
            "error": "lost",
            "false": "unknown",
            "running": "unknown",
            "paused": "unknown",
            "": "unknown",
        },
        ("time_total_s",),
    ),
    Export(
        "comet",
        (frozenset({"experiment_key"}), frozenset({"experimentKey"})),
        ("name", "experiment_name", "experiment_key", "experimentKey"),
        ("status", "state"),
        {"finished": "complete", "crashed": "lost", "running": "unknown", "": "complete"},
        ("duration",),
    ),
    Export(
        "neptune",
        (frozenset({"sys/id"}), frozenset({"sys/custom_run_id"})),
        ("sys/name", "sys/custom_run_id", "sys/id"),
        ("sys/state",),
        {"inactive": "complete", "active": "unknown", "": "complete"},
        ("sys/running_time",),
        failed="sys/failed",
    ),
)
BY_HAND = Export(
    "csv",
    (),
    ("run", "name", "experiment", "trial", "id"),
    ("outcome", "status", "state"),
    {
        **dict.fromkeys(
            (
                *("complete", "completed", "finished", "done", "ok", "success", "succeeded"),
                *("terminated", "early stopped", "stopped early", "early stopping"),
                *("published", ""),
            ),
            "complete",
        ),
        **dict.fromkeys(
            (
                *("failed", "fail", "error", "crashed", "crash", "killed", "aborted", "stopped"),
                *("cancelled", "canceled", "interrupted", "timeout", "lost"),
            ),
            "lost",
        ),
        **dict.fromkeys(("oom", "out of memory"), "oom"),
        **{one: one for one in ("pruned", "infeasible", "diverged", "unknown")},
        "running": "unknown",
    },
    ("runtime", "duration", "seconds", "time"),
)
"""A table that a person wrote, with the names that trainers give to settings and losses."""
NOT_YET = ("queued", "pending", "waiting", "scheduled", "planned", "todo", "not started")
"""States by hand of a run that has not begun."""
SUMMARIES = ("mean", "average", "avg", "median", "std", "sum", "total", "mittelwert")
"""Names by hand of a row that sums up the runs above it."""
