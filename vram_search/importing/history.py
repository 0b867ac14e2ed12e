"""Reads a run's logs: losses by step, evaluations, its last step and whether it ended."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from vram_search.store import Evaluation, Outcome, StepLoss


@dataclass
class History:
    """Losses by optimizer step; of a step that was logged twice (a resumed run) the last counts.

    Attributes:
        evaluations: step -> (eval_loss, seconds).
        ended: the tool wrote what it writes after a training only, such as `train_runtime`.
        train_runtime: seconds of the whole training.
        train_loss: mean over the whole training.
        measured: the highest bytes logged, by name as in `TrialRecord.measured`.
        has_rewards: rewards were logged, as a preference training does.
    """

    losses: dict[int, StepLoss] = field(default_factory=dict)
    evaluations: dict[int, tuple[float, float]] = field(default_factory=dict)
    last_step: int = 0
    total_steps: int = 0
    ended: bool = False
    train_runtime: float | None = None
    train_loss: float | None = None
    measured: dict[str, int] = field(default_factory=dict)
    has_rewards: bool = False

    def update(self, other: History) -> None:
        """Adds what another file of the same run tells; where both tell, the other counts."""
        self.losses |= other.losses
        self.evaluations |= other.evaluations
        self.last_step = max(self.last_step, other.last_step)
        self.total_steps = max(self.total_steps, other.total_steps)
        self.ended |= other.ended
        if other.train_runtime is not None:
            self.train_runtime = other.train_runtime
        if other.train_loss is not None:
            self.train_loss = other.train_loss
        self.measured |= other.measured
        self.has_rewards |= other.has_rewards

    @property
    def is_training(self) -> bool:
        """True if a training wrote the logs, not a prediction or an evaluation alone."""
        return self.ended or self.last_step > 0

    @property
    def horizon(self) -> int:
        """Steps of the whole run, as far as is known; at least 1."""
        return max(self.total_steps, self.last_step, 1)

    @property
    def has_diverged(self) -> bool:
        """The last loss or the last eval_loss is nan or inf, or the last loss is 0 after one that
        is: transformers reports 0 once the weights are nan."""
        ends = [self.losses[max(self.losses)].loss] if self.losses else []
        if ends == [0.0]:
            ends += [number for row in self.losses.values() for number in (row.loss, row.grad_norm)]
        ends += [self.evaluations[max(self.evaluations)][0]] if self.evaluations else []
        return any(loss is not None and not math.isfinite(loss) for loss in ends)

    @property
    def outcome(self) -> Outcome:
        """`lost` if the logs end before the last step; `unknown` if they do not say."""
        if self.has_diverged:
            return "diverged"
        if self.ended or 0 < self.total_steps <= self.last_step:
            return "complete"
        return "lost" if 0 < self.last_step < self.total_steps else "unknown"

    def step_losses(self) -> list[StepLoss]:
        return [self.losses[step] for step in sorted(self.losses)]

    def evaluation_rows(self) -> list[Evaluation]:
        """In step order; a tool's eval_loss is at the run's own cutoff."""
        return [
            Evaluation(step, step / self.horizon, loss, own_cutoff_eval_loss=loss, seconds=seconds)
            for step, (loss, seconds) in sorted(self.evaluations.items())
        ]
