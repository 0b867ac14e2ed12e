"""One trial at a time against several at equal minutes: figures and table of the comparison."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

from bench.workers.equal_minutes import Found, figures, tables

START = datetime(2026, 11, 29, tzinfo=UTC).timestamp()


def search(arm: str, *ends: tuple[float, str, float | None, int], seed: int = 0) -> Found:
    """A search whose trials are (second of the end, outcome, loss, worker)."""
    trials: list[Any] = [
        SimpleNamespace(
            finished_at=datetime.fromtimestamp(START + at, UTC),
            outcome=outcome,
            eval_loss=loss,
            worker_id=worker,
        )
        for at, outcome, loss, worker in ends
    ]
    return figures(trials, START, 60.0, arm=arm, seed=seed, exit_code=0, last_line="")


ONE = search("1", (30, "complete", 3.0, 1), (40, "complete", 2.0, 1), (50, "infeasible", None, 1))
FOUR = search(
    "auto",
    (20, "complete", 2.0, 1),
    (25, "pruned", 2.5, 2),
    (35, "complete", 1.5, 2),
    (40, "complete", 4.0, 1),
)


def test_rates_count_trials_that_took_time_on_the_card() -> None:
    assert ONE.outcomes == {"complete": 2}
    assert ONE.rate == 120
    assert (FOUR.workers, FOUR.rate) == (2, 240)


def test_steady_rate_begins_when_each_worker_has_ended_a_trial() -> None:
    assert FOUR.steady_rate == 360  # one end after second 25, until second 35
    assert search("1", (30, "complete", 3.0, 1)).steady_rate is None


def test_best_losses_come_with_the_seconds_at_which_they_were_found() -> None:
    assert FOUR.improvements == [(20, 2.0), (35, 1.5)]
    assert (FOUR.seconds_to(2.5), FOUR.seconds_to(1.9), FOUR.seconds_to(1.0)) == (20, 35, None)


def test_table_compares_the_arms_at_the_loss_that_both_reached() -> None:
    lines = tables([ONE, FOUR])
    assert "| 0.5000 |" in lines[2]  # regret of the search that found 2.0 where another found 1.5
    assert "all seconds x 2.00" in lines[-1]
    assert "same loss / 2.00" in lines[-1]  # 40 s against 20 s to a loss of 2.0
    assert "lower by 0.5000" in lines[-1]


def test_search_without_a_complete_trial_is_left_out_of_the_comparison() -> None:
    assert "no seed has both" in tables([ONE, search("auto")])[-1]
