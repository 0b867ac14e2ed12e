"""The loop of a search: what ends it, and which proposals it runs."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.search.conftest import OpenStorage, in_memory
from vram_search.search import Proposal, Search
from vram_search.search.loop import REPEATED_IN_A_ROW, NoPeers, run_trials
from vram_search.spec import SearchSpace
from vram_search.store import Outcome

OpenSearch = Callable[..., Search]


@pytest.fixture
def open_storage_of_test() -> OpenStorage:
    return in_memory()


ONE_POINT = SearchSpace.model_validate(
    {
        "optim": "adamw_8bit",
        "lora_target": "all",
        "lora_rank": 16,
        "cutoff_len": 512,
        "batch_size": 8,
        "learning_rate": 1e-4,
    }
)


class Runner:
    """Ends every trial with the next of these outcomes, the last one for all that follow."""

    def __init__(self, search: Search, *outcomes: Outcome) -> None:
        self.search, self.outcomes = search, list(outcomes)
        self.run: list[Proposal] = []

    def __call__(self, proposal: Proposal) -> Outcome:
        self.run.append(proposal)
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        loss = 1.0 if outcome == "complete" else None
        self.search.tell(proposal.number, outcome, loss, -0.1)
        return outcome

    def is_over(self) -> str:
        return "three trials were run" if len(self.run) == 3 else ""


def test_search_ends_by_the_rule_of_the_caller(open_search: OpenSearch) -> None:
    search = open_search()
    runner = Runner(search, "complete")
    assert run_trials(search, runner, runner.is_over) == "three trials were run"
    assert len(runner.run) == 3


@pytest.mark.parametrize("strategy", ["gp", "tpe", "random"])
def test_search_ends_when_only_points_that_were_tried_are_proposed(
    open_search: OpenSearch, strategy: str
) -> None:
    search = open_search(ONE_POINT, strategy=strategy)
    runner = Runner(search, "complete")
    assert run_trials(search, runner, runner.is_over).endswith("has been tried")
    assert len(runner.run) == 1
    assert search.trial_count == 1 + REPEATED_IN_A_ROW
    assert search.open_numbers() == [], "repetitions are withdrawn"


def test_point_of_an_earlier_run_is_not_repeated(open_search: OpenSearch) -> None:
    search = open_search(ONE_POINT)
    runner, point = Runner(search, "complete"), search.ask().hyperparameters
    run_trials(search, runner, runner.is_over, peers=NoPeers([point]))
    assert runner.run == []


def test_lost_point_is_proposed_again_and_an_infeasible_one_is_not(open_search: OpenSearch) -> None:
    search = open_search(ONE_POINT)
    runner = Runner(search, "lost", "infeasible")
    run_trials(search, runner, runner.is_over)
    assert len(runner.run) == 2


def test_retry_of_a_stopped_trial_is_run_although_its_point_was_tried(
    open_search: OpenSearch,
) -> None:
    search = open_search(ONE_POINT)
    point = search.ask().hyperparameters
    search.tell(0, "pruned", None, -0.1)
    search.enqueue_retry(point, 0)
    runner = Runner(search, "complete")
    run_trials(search, runner, runner.is_over, peers=NoPeers([point]))
    assert [proposal.retry_of for proposal in runner.run] == [0]
