"""Writes each finished trial as one run of an experiment tracker, from the record.

Off by default; `trackers:` in config.yaml names them. Each needs its own extra.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from vram_search.errors import InputError
from vram_search.outbound.receiver import Receiver
from vram_search.outbound.settings import TrackerName
from vram_search.report.figures import required_bytes
from vram_search.store import Store
from vram_search.store.events import EventRecord
from vram_search.store.location import StudyFolder, trial_folder

INFEASIBLE = "infeasible"


@dataclass(frozen=True)
class TrackedTrial:
    """A finished trial as trackers see it.

    Attributes:
        folder: of the study, for trackers that write files.
        parameters: hyperparameters by name; a list is a text with commas.
        series: values by name, each with its optimizer step.
        results: outcome figures: eval_loss, required_bytes, seconds.
    """

    study: str
    number: int
    outcome: str
    folder: StudyFolder
    parameters: dict[str, int | float | str]
    series: dict[str, list[tuple[int, float]]]
    results: dict[str, float]

    @property
    def name(self) -> str:
        """Name of the run: `trial-0007`."""
        return trial_folder(self.number)

    def by_step(self) -> list[tuple[int, dict[str, float]]]:
        """All values of each step, in step order."""
        steps: dict[int, dict[str, float]] = {}
        for name, values in self.series.items():
            for step, value in values:
                steps.setdefault(step, {})[name] = value
        return sorted(steps.items())


@dataclass(frozen=True)
class TrackerReceiver:
    """Writes finished trials with the function of one tracker."""

    name: str
    write: Callable[[TrackedTrial], None]
    kinds: tuple[str, ...] = ("trial_ended",)

    def wants(self, store: Store, event: EventRecord) -> bool:
        return event.data.get("outcome") != INFEASIBLE

    def send(self, store: Store, event: EventRecord) -> None:
        trial = tracked_trial(store, event)
        if trial is not None:
            self.write(trial)


def tracked_trial(store: Store, event: EventRecord) -> TrackedTrial | None:
    """Reads the trial of an event; None if its study was deleted."""
    record = store.study(event.study)
    trial = store.trial(record.id, event.trial or 0) if record is not None else None
    if trial is None:
        return None
    steps, evaluations = store.step_losses(trial.id), store.evaluations(trial.id)
    size, _ = required_bytes(trial)
    results = {
        "eval_loss": trial.eval_loss,
        "required_bytes": size,
        "seconds": sum((trial.seconds or {}).values()),
    }
    series = {
        "train/loss": [(s.step, s.loss) for s in steps if s.loss is not None],
        "train/learning_rate": [
            (s.step, s.learning_rate) for s in steps if s.learning_rate is not None
        ],
        "train/grad_norm": [(s.step, s.grad_norm) for s in steps if s.grad_norm is not None],
        "eval/loss": [(e.step, e.eval_loss) for e in evaluations if e.eval_loss is not None],
    }
    return TrackedTrial(
        study=event.study,
        number=trial.number,
        outcome=trial.outcome or "running",
        folder=StudyFolder(store.files, event.study),
        parameters={name: _plain(value) for name, value in trial.hyperparameters.items()},
        series={name: values for name, values in series.items() if values},
        results={name: float(value) for name, value in results.items() if value is not None},
    )


def tracker_receivers(names: Sequence[TrackerName]) -> list[Receiver]:
    """The trackers of these names.

    Raises:
        InputError: the package of one is not installed.
    """
    for name in names:
        if importlib.util.find_spec(_PACKAGES[name]) is None:
            raise InputError(
                f"trackers: {name} needs the package {_PACKAGES[name]}, which is not installed",
                f'pip install "vram-search[{name}]"',
            )
    return [TrackerReceiver(f"tracker:{name}", _WRITERS[name]) for name in names]


def _plain(value: Any) -> int | float | str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    return value if isinstance(value, int | float | str) else str(value)


def write_tensorboard(trial: TrackedTrial) -> None:
    """Writes an event file in the study's folder `tensorboard`."""
    from tensorboardX import SummaryWriter

    folder = trial.folder.path / "tensorboard" / trial.name
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


_PACKAGES: dict[TrackerName, str] = {
    "tensorboard": "tensorboardX",
    "mlflow": "mlflow",
    "wandb": "wandb",
    "trackio": "trackio",
}
_WRITERS: dict[TrackerName, Callable[[TrackedTrial], None]] = {
    "tensorboard": write_tensorboard,
    "mlflow": write_mlflow,
    "wandb": write_wandb,
    "trackio": write_trackio,
}
