"""What a night was worth: seconds to a good loss, regret, wasted time, whether the winner is right.

Losses of configurations are means over their recorded seeds ("true" below). A winner is a complete
trial; a pruned one's adapter is not kept.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.search.replay import Replay, Trial
from bench.search.table import Config
from vram_search.report.sweet_spot import paired_standard_error

GOOD = 1.01
"""A loss within 1 % of the best is this times the best."""


@dataclass(frozen=True)
class Incumbent:
    """The best complete trial's configuration from a moment on: its true losses."""

    seconds: float
    loss: float
    last_loss: float


@dataclass(frozen=True)
class Result:
    """One strategy's night with one seed.

    Attributes:
        seconds_to_good: until the incumbent's true loss is within 1 % of the table's best; None
            where the night ended before.
        regret: of the winner, in nats per token over the table's best; infinite without a winner.
        last_regret: the same with the winner's last checkpoint instead of its best.
        infeasible_share: of GPU seconds, spent on trials that ran out of memory.
        is_right: the sweet spot's true loss is within one standard error of the table's best.
    """

    strategy: str
    seed: int
    seconds_to_good: float | None
    regret: float
    last_regret: float
    infeasible_share: float
    is_right: bool
    trials: int
    complete: int
    incumbents: tuple[Incumbent, ...]


def judge(strategy: str, replay: Replay) -> Result:
    """The figures of a replayed night; what ended after it does not count."""
    best = replay.table.best(replay.limit_bytes)
    done = [trial for trial in replay.trials if trial.ended <= replay.night]
    winners = incumbents(done, replay)
    seconds = sum(trial.seconds for trial in done)
    wasted = sum(trial.seconds for trial in done if trial.outcome == "oom")
    good = (one.seconds for one in winners if one.loss <= GOOD * best.loss())
    return Result(
        strategy=strategy,
        seed=replay.seed,
        seconds_to_good=next(good, None),
        regret=(winners[-1].loss if winners else math.inf) - best.loss(),
        last_regret=(winners[-1].last_loss if winners else math.inf) - best.loss(),
        infeasible_share=wasted / seconds if seconds else 0.0,
        is_right=is_right(done, best, replay.table.seed_noise()),
        trials=sum(trial.outcome != "infeasible" for trial in done),
        complete=sum(trial.outcome == "complete" for trial in done),
        incumbents=tuple(winners),
    )


def incumbents(trials: Iterable[Trial], replay: Replay) -> list[Incumbent]:
    """Each complete trial that was the best when it ended, by what the strategy saw."""
    found: list[Incumbent] = []
    lowest = math.inf
    for trial in trials:
        if trial.outcome == "complete" and trial.value is not None and trial.value < lowest:
            lowest = trial.value
            loss = trial.config.loss(replay.rules.evaluate_at)
            found.append(Incumbent(trial.ended, loss, trial.config.last_loss))
    return found


class UntilGood(Replay):
    """A night that ends with the first incumbent within 1 % of the best."""

    @property
    def is_open(self) -> bool:
        good = GOOD * self.table.best(self.limit_bytes).loss()
        return super().is_open and all(one.loss > good for one in incumbents(self.trials, self))


def is_right(trials: Sequence[Trial], best: Config, seed_noise: float | None) -> bool:
    """Whether the sweet spot is as good as the table's best, within one standard error."""
    spot = sweet_spot(trials)
    if spot is None:
        return False
    error = standard_error(spot.config, best, seed_noise)
    return spot.config.loss() - best.loss() <= error


def sweet_spot(trials: Iterable[Trial]) -> Trial | None:
    """Returns the trial with the fewest bytes within one standard error of the best loss."""
    seen = [(t.value, t) for t in trials if t.outcome == "complete" and t.value is not None]
    if not seen:
        return None
    lowest, best = min(seen, key=lambda pair: pair[0])
    within = [
        trial
        for value, trial in seen
        if value - lowest <= standard_error(trial.config, best.config, None)
    ]
    return min(within, key=lambda trial: trial.config.bytes)


def standard_error(one: Config, other: Config, seed_noise: float | None) -> float:
    """Standard error of the difference of two configurations' losses, in nats per token.

    Paired over the examples of the last evaluation where the table has them; otherwise from the
    noise between seeds, 0 where that is not known.
    """
    mine, best = one.rows[0], other.rows[0]
    last = best.eval_loss[-1]
    if mine.example_loss_sums and best.example_loss_sums and last is not None:
        error = paired_standard_error(mine.example_loss_sums, best.example_loss_sums, last)
        if error is not None:
            return error
    return math.sqrt(2) * (seed_noise or 0.0)


@dataclass(frozen=True)
class Summary:
    """A strategy over all seeds of one task."""

    strategy: str
    seconds_to_good: tuple[float, float, float]
    """Lower quartile, median, upper quartile; infinite beyond the night."""
    mean_regret: float
    mean_last_regret: float
    infeasible_share: float
    right_share: float
    trials: float
    complete: float
    worse_than_random: int | None
    """Seeds whose regret is above random's with the same seed; None without random."""


def summarize(
    strategy: str, results: Sequence[Result], baseline: Sequence[Result] | None
) -> Summary:
    """Means and quartiles over the seeds; `baseline` are random's results."""
    random = None if baseline is None else {one.seed: one.regret for one in baseline}
    return Summary(
        strategy=strategy,
        seconds_to_good=quartiles(
            math.inf if r.seconds_to_good is None else r.seconds_to_good for r in results
        ),
        mean_regret=statistics.fmean(r.regret for r in results),
        mean_last_regret=statistics.fmean(r.last_regret for r in results),
        infeasible_share=statistics.fmean(r.infeasible_share for r in results),
        right_share=statistics.fmean(r.is_right for r in results),
        trials=statistics.fmean(r.trials for r in results),
        complete=statistics.fmean(r.complete for r in results),
        worse_than_random=(
            None
            if random is None
            else sum(r.regret > random.get(r.seed, math.inf) + 1e-9 for r in results)
        ),
    )


def quartiles(values: Iterable[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile, each one of the values: some are infinite."""
    ranked = sorted(values)
    last = len(ranked) - 1
    return ranked[round(last / 4)], ranked[round(last / 2)], ranked[round(last * 3 / 4)]
