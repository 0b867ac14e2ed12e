"""Collects the events and NVML readings of one trial and draws conclusions from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from vram_search.gpu import SYSMEM_FALLBACK_HINT, GpuDevice, GpuSample, is_spilling
from vram_search.protocol import AnyEvent, Evaluated, Finished, Probed, Resumed, Stage, Step
from vram_search.store import Evaluation, StepLoss
from vram_search.units import format_bytes, format_duration

EARLY_STEPS = 3
"""Number of first steps; their median is the expected step time if the probe measured none."""
LATEST_STEPS = 3


class SpilledError(Exception):
    """Windows moved the trial's memory to system RAM; `finished` is the hidden out-of-memory."""

    def __init__(self, finished: Finished) -> None:
        super().__init__(finished.message)
        self.finished = finished


@dataclass
class TrialLog:
    """The events of one trial under one plan and what follows from them."""

    steps: list[StepLoss] = field(default_factory=list)
    step_seconds: list[float] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    stage: str = "load"
    step: int = 0
    steps_total: int = 0
    probed: Probed | None = None
    own_cutoff_eval_loss: float | None = None
    resumed_step: int | None = None

    def add(self, event: AnyEvent) -> None:
        """Notes an event."""
        if isinstance(event, Stage):
            self.stage, self.steps_total = event.stage, event.steps_total
        elif isinstance(event, Step):
            self.step = event.step
            self.step_seconds.append(event.seconds)
            self.steps.append(_step_loss(event))
        elif isinstance(event, Resumed):
            self.step = self.resumed_step = event.step
            self.steps = [_step_loss(step) for step in event.steps]
            self.evaluations = [_evaluation(evaluated) for evaluated in event.evaluations]
        elif isinstance(event, Probed):
            self.probed = event
        elif isinstance(event, Evaluated):
            self.own_cutoff_eval_loss = event.own_cutoff_eval_loss
            self.evaluations.append(_evaluation(event))

    @property
    def best(self) -> Evaluation | None:
        """The evaluation whose adapter was kept."""
        finite = [e for e in self.evaluations if e.eval_loss is not None]
        return min(finite, key=lambda e: e.ranking or 0.0, default=None)

    def refuse_spill(self, device: GpuDevice, sample: GpuSample) -> None:
        """Raises if memory has spilled; call it after a step with NVML's latest reading.

        A spill that began during the probe is not found, because its steps are the reference.

        Raises:
            SpilledError: the steps collapsed while the card is full, on a card Windows manages.
        """
        expected = expected_step_seconds(self.probed, self.step_seconds)
        used, total = sample.occupied_bytes, device.total_bytes
        if not is_spilling(self.step_seconds, expected, used, total, device.is_wddm):
            return
        latest = median(self.step_seconds[-LATEST_STEPS:])
        raise SpilledError(
            self.out_of_memory(
                f"memory spilled into system RAM: a step takes {format_duration(latest)} "
                f"in place of {format_duration(expected)}, and {format_bytes(used)} of the card's "
                f"{format_bytes(total)} are in use",
                SYSMEM_FALLBACK_HINT,
            )
        )

    def out_of_memory(self, message: str, remedy: str = "") -> Finished:
        """Returns an out-of-memory that the process did not report; its peaks are the probe's."""
        probed = self.probed
        return Finished(
            outcome="oom",
            stage=self.stage,
            step=self.step,
            steps_total=self.steps_total,
            message=message,
            remedy=remedy,
            allocated_bytes=probed.allocated_bytes if probed else None,
            reserved_bytes=probed.reserved_bytes if probed else None,
        )


def _step_loss(event: Step) -> StepLoss:
    return StepLoss(event.step, event.loss, event.learning_rate, event.grad_norm)


def _evaluation(event: Evaluated) -> Evaluation:
    return Evaluation(
        step=event.step,
        fraction=event.fraction,
        eval_loss=event.eval_loss,
        own_cutoff_eval_loss=event.own_cutoff_eval_loss,
        bits_per_byte=event.bits_per_byte,
        example_loss_sums=event.example_loss_sums,
        seconds=event.seconds,
        answer_error=event.answer_error,
        answer_errors=event.answer_errors,
    )


def expected_step_seconds(probed: Probed | None, step_seconds: Sequence[float]) -> float:
    """Returns a step's seconds with the longest rows: the probe's or the first steps' median."""

    if probed is not None and probed.step_seconds is not None:
        return probed.step_seconds
    return median(step_seconds[:EARLY_STEPS])
