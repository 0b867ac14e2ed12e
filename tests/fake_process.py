"""Training processes that are threads, for tests whose subject is not the process.

`FakeProcess` trains nothing (tests/fake_trainer.py). `ThreadProcess` trains for real, without the
seconds of CPU time that the imports of a process take; its test has imported torch already.
"""

from __future__ import annotations

import os
import queue
import threading
from pathlib import Path

from tests.fake_trainer import serve
from vram_search.errors import VramSearchError
from vram_search.extras import check_training_packages
from vram_search.protocol import AnyEvent, AnyJob, LoadFailed, parse_event, parse_job
from vram_search.train import __main__ as training
from vram_search.train.channel import Channel
from vram_search.worker.process import TrainingProcess


class StoppedError(Exception):
    """Ends the thread where the real process would be killed."""


class ThreadChannel(Channel):
    """Exchanges the same lines as the real channel, through queues."""

    def __init__(self, events: queue.SimpleQueue[AnyEvent | Exception]) -> None:
        self.jobs: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._events = events

    def receive(self) -> AnyJob:
        line = self.jobs.get()
        if line is None:
            raise StoppedError
        return parse_job(line)

    def send(self, event: AnyEvent) -> None:
        self._events.put(parse_event(event.model_dump_json()))

    def send_alive(self) -> None:
        """A thread needs no sign of life."""


class ThreadProcess(TrainingProcess):
    """Stands for `TrainingProcess`, and serves its jobs in a thread."""

    serve = staticmethod(training.serve)

    def __init__(self, log: Path, environment: dict[str, str]) -> None:
        check_training_packages()
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        log.touch()
        self._events = queue.SimpleQueue()
        self._channel = ThreadChannel(self._events)
        threading.Thread(target=self._train, name="training", daemon=True).start()

    @property
    def pid(self) -> int:
        return os.getpid()

    def send(self, job: AnyJob) -> None:
        self._channel.jobs.put(job.model_dump_json())

    def stop(self) -> None:
        self._channel.jobs.put(None)

    def _train(self) -> None:
        try:
            self.serve(self._channel)
        except StoppedError:
            pass
        except VramSearchError as error:
            self._channel.send(LoadFailed(message=error.message, remedy=error.remedy))
        except Exception as error:
            self._events.put(error)


class FakeProcess(ThreadProcess):
    """Trains as tests/fake_trainer.py does."""

    serve = staticmethod(serve)
