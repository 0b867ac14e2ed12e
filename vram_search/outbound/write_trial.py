"""A process that writes one trial as a run of a tracker: `python -m ... TRACKER FOLDER`.

It reads FOLDER/trial.json and writes FOLDER/error if the tracker fails. It imports little, so that
most of its time is the tracker's.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TRIAL_FILE = "trial.json"
ERROR_FILE = "error"
_MOST_LETTERS = 300
"""A longer message of a tracker is cut off here."""


@dataclass(frozen=True)
class TrackedTrial:
    """A finished trial as trackers see it.

    Attributes:
        name: of the run: `trial-0007`.
        folder: of the study, for trackers that write files.
        parameters: hyperparameters by name; a list is a text with commas.
        series: values by name, each with its optimizer step.
        results: outcome figures: eval_loss, required_bytes, seconds.
    """

    study: str
    name: str
    outcome: str
    folder: str
    parameters: dict[str, int | float | str]
    series: dict[str, list[tuple[int, float]]]
    results: dict[str, float]

    def by_step(self) -> list[tuple[int, dict[str, float]]]:
        """All values of each step, in step order."""
        steps: dict[int, dict[str, float]] = {}
        for name, values in self.series.items():
            for step, value in values:
                steps.setdefault(step, {})[name] = value
        return sorted(steps.items())


def main(tracker: str, folder: Path) -> None:
    """Writes the trial of the folder."""
    sys.modules["torch"] = None  # type: ignore[assignment]  # tensorboardX would load it: 2 s more
    trial = TrackedTrial(**json.loads((folder / TRIAL_FILE).read_text(encoding="utf-8")))
    try:
        WRITERS[tracker](trial)
    except (Exception, SystemExit) as error:  # a tracker may end the process
        lines = str(error).strip().splitlines()
        said = ": ".join([type(error).__name__, *lines[:1]])[:_MOST_LETTERS]
        (folder / ERROR_FILE).write_text(said, encoding="utf-8")


def write_tensorboard(trial: TrackedTrial) -> None:
    """Writes an event file in the study's folder `tensorboard`."""
    from tensorboardX import SummaryWriter

    folder = Path(trial.folder) / "tensorboard" / trial.name
    writer = SummaryWriter(logdir=str(folder), write_to_disk=True)
    try:
        for name, values in trial.series.items():
            for step, value in values:
                writer.add_scalar(name, value, step)
        for name, value in trial.results.items():
            writer.add_scalar(f"result/{name}", value, 0)
        words = "\n".join(f"- {name}: {value}" for name, value in trial.parameters.items())
        writer.add_text("trial", f"{trial.outcome}\n\n{words}", 0)
    finally:
        writer.close()


def write_mlflow(trial: TrackedTrial) -> None:
    """Writes a run of the experiment of the study's name, at `$MLFLOW_TRACKING_URI`."""
    from mlflow.entities import Metric, Param, RunTag
    from mlflow.tracking import MlflowClient

    client = MlflowClient()
    experiment = client.get_experiment_by_name(trial.study)
    identity = experiment.experiment_id if experiment else client.create_experiment(trial.study)
    run = client.create_run(identity, run_name=trial.name)
    now = run.info.start_time
    metrics = [
        Metric(name, value, now, step)
        for name, values in trial.series.items()
        for step, value in values
    ]
    metrics += [Metric(name, value, now, 0) for name, value in trial.results.items()]
    most = 500  # of one request: params and metrics together are limited to 1000
    client.log_batch(
        run.info.run_id,
        params=[Param(name, str(value)) for name, value in trial.parameters.items()],
        tags=[RunTag("outcome", trial.outcome)],
    )
    for start in range(0, len(metrics), most):
        client.log_batch(run.info.run_id, metrics=metrics[start : start + most])
    client.set_terminated(run.info.run_id)


def write_wandb(trial: TrackedTrial) -> None:
    """Writes a run of the W&B project of the study's name; its login comes from the environment."""
    import wandb

    _write_with(wandb, trial, group=trial.study, reinit="create_new")


def write_trackio(trial: TrackedTrial) -> None:
    """Writes a run of the Trackio project of the study's name."""
    import trackio

    _write_with(trackio, trial)


def _write_with(tracker: Any, trial: TrackedTrial, **options: Any) -> None:
    """Writes a run; W&B and Trackio have the same functions."""
    config = {**trial.parameters, "outcome": trial.outcome}
    run = tracker.init(project=trial.study, name=trial.name, config=config, **options)
    for step, values in trial.by_step():
        run.log(values, step=step)
    last = trial.by_step()[-1][0] if trial.series else 0
    run.log({f"result/{name}": value for name, value in trial.results.items()}, step=last)
    run.finish()


WRITERS: dict[str, Callable[[TrackedTrial], None]] = {
    "tensorboard": write_tensorboard,
    "mlflow": write_mlflow,
    "wandb": write_wandb,
    "trackio": write_trackio,
}

if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
