"""Follows one training: notes its events and reads NVML meanwhile."""

from __future__ import annotations

from dataclasses import dataclass, field

from vram_search.gpu import GpuSample, Monitor, MonitorReport
from vram_search.protocol import AnyEvent, Stage, Step
from vram_search.worker.budget import Budget
from vram_search.worker.resident import ResidentTrainer
from vram_search.worker.trial_log import TrialLog


@dataclass(kw_only=True)
class Watch:
    """The events of one training and NVML's readings during it."""

    budget: Budget
    trainer: ResidentTrainer
    log: TrialLog = field(default_factory=TrialLog)
    monitor: Monitor | None = None

    def start(self) -> None:
        """Begins to read NVML, if available; the training process is running."""
        reader, pid = self.budget.reader, self.trainer.pid
        if reader is not None and pid is not None:
            self.monitor = Monitor(reader)
            self.monitor.start(pid, self.budget.baseline_device_bytes)

    def stop(self) -> MonitorReport | None:
        """Ends the readings and returns what they gave."""
        return self.monitor.stop() if self.monitor is not None else None

    def note(self, event: AnyEvent) -> GpuSample | None:
        """Notes an event and returns the latest reading."""
        self.log.add(event)
        if self.monitor is None:
            return None
        sample = self.monitor.snapshot()
        if isinstance(event, Stage):
            self.monitor.mark(event.stage)
        return sample

    def refuse_spill(self, event: AnyEvent, sample: GpuSample | None) -> None:
        """Ends the trial if the driver has moved its memory to system RAM.

        Raises:
            SpilledError: steps are slow and the card is full, on a card that Windows manages.
        """
        if isinstance(event, Step) and sample is not None and self.budget.reader is not None:
            self.log.refuse_spill(self.budget.reader.device(), sample)
