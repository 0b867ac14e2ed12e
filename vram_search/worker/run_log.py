"""Writes the log of a run: one file of JSON lines for programs, one for people.

Both hold the same entries. Passwords and tokens are masked, and rows of data never get here: an
entry has our own sentences, numbers and names.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from vram_search.errors import VramSearchError
from vram_search.estimate import PlannedTrial
from vram_search.gpu import GpuSample
from vram_search.protocol import AnyEvent, Evaluated, Probed, Stage, Step
from vram_search.search import Proposal
from vram_search.shown_text import shown, without_secrets_in
from vram_search.store import TrialRecord
from vram_search.store.location import StudyFolder
from vram_search.store.run_logs import log_files
from vram_search.units import counted, format_bytes, format_duration
from vram_search.worker.listener import RunListener

RUNS_KEPT = 50
"""Runs of a study whose logs stay on disk."""
STEP_SECONDS = 30.0
"""A training's steps are logged this often; the record holds all of their losses."""
_LONGEST_TEXT = 2000
_NAME = "%Y%m%dT%H%M%S.%f"


class RunLog:
    """The log of one run. A disk that takes nothing more must not end the run.

    Args:
        folder: of the study's logs.
    """

    def __init__(self, folder: Path) -> None:
        self._files: list[Path] = []
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            _delete_oldest(folder)
            name = _new_name(folder)
            for suffix in (".jsonl", ".log"):
                file = folder / f"{name}{suffix}"
                file.open("x").close()
                self._files.append(file)

    def write(self, event: str, text: str, **data: Any) -> None:
        """Adds an entry.

        Args:
            event: its kind, for programs.
            text: the sentence for people; its first line is kept. Further lines of an error may
                quote the output of a library, and with it a row.
            data: numbers and names, for programs.
        """
        now = datetime.now().astimezone()
        text = shown(text.partition("\n")[0])[:_LONGEST_TEXT]
        entry = {"at": now.isoformat(timespec="milliseconds"), "event": event, "text": text}
        line = json.dumps(without_secrets_in({**entry, **data}), ensure_ascii=False, default=str)
        for file, written in zip(self._files, (line, f"{now:%H:%M:%S} {text}"), strict=False):
            with contextlib.suppress(OSError):  # opened by its name: it may have been moved away
                file.parent.mkdir(parents=True, exist_ok=True)
                with file.open("a", encoding="utf-8", errors="replace", newline="\n") as stream:
                    stream.write(f"{written}\n")


def _new_name(folder: Path) -> str:
    """A name after those of all earlier runs: this moment in UTC, or just after the latest name if
    the machine's clock was set back."""
    name = f"{datetime.now(UTC):{_NAME}}"
    latest = max((file.stem for file in log_files(folder)), default="")
    if latest >= name:
        with contextlib.suppress(ValueError, OverflowError):  # a file that is not ours
            moment = datetime.strptime(latest.partition("+")[0].partition("-")[0], _NAME)
            name = f"{moment + timedelta(microseconds=1):{_NAME}}"
    return f"{name}+0000"


class LoggedListener:
    """Writes every event of a run to its log and passes it on."""

    def __init__(self, listener: RunListener, log: RunLog) -> None:
        self._listener, self._log = listener, log
        self._trial: int | None = None
        self._steps_total = 0
        self._latest_step = -STEP_SECONDS
        self._trained_seconds = 0.0

    def note(self, text: str) -> None:
        self._log.write("note", text)
        self._listener.note(text)

    def run_started(self, finished: int, best: TrialRecord | None) -> None:
        loss = None if best is None else best.eval_loss
        words = f"run started; {counted(finished, 'trial is', 'trials are')} finished"
        self._log.write("run_started", words, finished=finished, best_eval_loss=loss)
        self._listener.run_started(finished, best)

    def untuned_evaluated(self, eval_loss: float | None) -> None:
        self._log.write("untuned", f"untuned model: eval_loss {eval_loss}", eval_loss=eval_loss)
        self._listener.untuned_evaluated(eval_loss)

    def trial_started(self, proposal: Proposal, planned: PlannedTrial) -> None:
        self._trial, self._steps_total = proposal.number, 0
        self._latest_step, self._trained_seconds = -STEP_SECONDS, 0.0
        point = proposal.hyperparameters.model_dump(mode="json")
        words = ", ".join(f"{name} {value}" for name, value in point.items())
        required = planned.estimate.required_bytes
        self._log.write(
            "trial_started",
            f"trial {proposal.number} started: {words}; {planned.plan.label}; predicted "
            f"{format_bytes(required)} needed",
            trial=proposal.number,
            retry_of=proposal.retry_of,
            hyperparameters=point,
            plan=planned.plan.model_dump(mode="json"),
            predicted_required_bytes=required,
        )
        self._listener.trial_started(proposal, planned)

    def trial_event(self, event: AnyEvent, sample: GpuSample | None) -> None:
        if words := self._words(event):
            self._log.write(
                event.event,
                f"trial {self._trial}: {words}",
                trial=self._trial,
                process_bytes=None if sample is None else sample.process_bytes,
                **_numbers(event),
            )
        self._listener.trial_event(event, sample)

    def others_running(self, trials: Sequence[TrialRecord]) -> None:
        self._listener.others_running(trials)

    def trial_ended(self, record: TrialRecord) -> None:
        error = record.error or {}
        said = f"; {error['stage']}: {error.get('message')}" if "stage" in error else ""
        self._log.write(
            "trial_ended",
            f"trial {record.number} ended: {record.outcome}, eval_loss {record.eval_loss}{said}",
            trial=record.number,
            outcome=record.outcome,
            eval_loss=record.eval_loss,
            seconds=record.seconds,
            measured_required_bytes=record.measured_required_bytes,
        )
        self._listener.trial_ended(record)

    def run_ended(self, why: str) -> None:
        """The search ended regularly."""
        self._log.write("run_ended", f"run ended: {why}")

    def run_failed(self, error: BaseException) -> None:
        """An error or an interruption ends the run."""
        if isinstance(error, KeyboardInterrupt):
            self._log.write("run_interrupted", "run interrupted; finished trials are kept")
            return
        kind = type(error).__name__
        said = error.message if isinstance(error, VramSearchError) else f"{kind}: {error}"
        self._log.write("run_failed", f"run failed: {said}", error=kind)

    def _words(self, event: AnyEvent) -> str:
        """The sentence of an event; empty if it is not logged."""
        if isinstance(event, Stage):
            self._steps_total = event.steps_total
            return f"stage {event.stage}"
        if isinstance(event, Probed):
            return f"probe passed in {format_duration(event.seconds)}"
        if isinstance(event, Evaluated):
            return f"eval_loss {event.eval_loss} at step {event.step} of {self._steps_total}"
        if isinstance(event, Step):
            self._trained_seconds += event.seconds
            if self._trained_seconds - self._latest_step < STEP_SECONDS:
                return ""
            self._latest_step = self._trained_seconds
            return f"step {event.step} of {self._steps_total}, loss {event.loss}"
        return event.event.replace("_", " ")


def _numbers(event: AnyEvent) -> dict[str, Any]:
    """The numbers of an event; its texts may quote a row, and its lists are in the record."""
    values = event.model_dump(mode="json")
    return {
        name: value
        for name, value in values.items()
        if isinstance(value, int | float) or name in ("stage", "outcome")
    }


def _delete_oldest(folder: Path) -> None:
    for suffix in ("jsonl", "log"):
        for file in sorted(folder.glob(f"*.{suffix}"))[: -(RUNS_KEPT - 1)]:
            file.unlink(missing_ok=True)


@contextlib.contextmanager
def logged_run(folder: StudyFolder, listener: RunListener) -> Iterator[LoggedListener]:
    """Yields a listener that logs the run, and logs how the run ends."""
    log = RunLog(folder.logs)
    logged = LoggedListener(listener, log)
    try:
        yield logged
    except BaseException as error:
        logged.run_failed(error)
        raise
