"""Records a run of a study, however it ends."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from vram_search.errors import StoreError, VramSearchError
from vram_search.store import Store
from vram_search.store.runs import RunEnd, end_run, start_run


@dataclass
class CurrentRun:
    """The run that goes on.

    Attributes:
        seconds: spent by the run itself, by phase (`RunRecord.seconds`).
        stopped: the reason for its end, once it is known.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    stopped: str = ""

    def add(self, phase: str, seconds: float) -> None:
        """Adds to a phase's seconds."""
        self.seconds[phase] = self.seconds.get(phase, 0.0) + seconds


@contextlib.contextmanager
def recorded_run(store: Store, study_id: int, worker_id: int | None = None) -> Iterator[CurrentRun]:
    """Records the start of a run, and its end with the reason or the error."""
    run_id, run, remedy = start_run(store, study_id, worker_id), CurrentRun(), ""
    try:
        yield run
    except KeyboardInterrupt:
        run.stopped = "interrupted by Ctrl-C"
        raise
    except VramSearchError as error:
        run.stopped, remedy = error.message, error.remedy
        raise
    except BaseException as error:
        run.stopped = f"{type(error).__name__}: {error}"
        raise
    finally:
        with contextlib.suppress(StoreError):  # it must not hide the error that ends the run
            end_run(store, run_id, RunEnd(run.stopped, remedy, run.seconds))
