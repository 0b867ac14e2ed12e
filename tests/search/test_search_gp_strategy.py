"""`strategy: gp`: what is proposed next, and which trial goes on at a rung."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import FrozenTrial

from tests.factories import make_point, make_space
from tests.search.conftest import OpenStorage, in_memory
from vram_search.search import Search
from vram_search.search.gp.acquisition import Acquisition
from vram_search.search.gp.candidates import NEAR_CANDIDATES, candidates
from vram_search.search.gp.rules import GpRules
from vram_search.search.gp.surrogate import Surrogate
from vram_search.search.gp.transfer import SourceTask
from vram_search.search.observations import Observation, merge_observations, observe
from vram_search.search.problem import Problem, always_feasible
from vram_search.spec import Hyperparameters, SearchSpace
from vram_search.spec.optimizers import OPTIMIZERS
from vram_search.store import Outcome, Store, StudyRecord, TrialResult

RUNGS = (1 / 9, 1 / 3, 2 / 3)
SPACE = make_space(
    optim="adamw_8bit",
    lora_target="all",
    lora_rank=16,
    cutoff_len=512,
    batch_size=8,
    learning_rate={"min": 1e-5, "max": 1e-2},
)
RATES = [round(10 ** (-5 + place / 10), 9) for place in range(31)]

Fits = Callable[[Hyperparameters], bool]
OpenSearch = Callable[..., Search]
OptunaTrials = Callable[..., list[FrozenTrial]]


@pytest.fixture
def open_storage_of_test() -> OpenStorage:
    return in_memory()


def at(learning_rate: float) -> Hyperparameters:
    return make_point(learning_rate=learning_rate)


LINE = [at(rate) for rate in RATES]


def loss(rate: float, best: float) -> float:
    return 1.0 + 0.1 * abs(math.log10(rate / best))


def earlier(best: float) -> list[SourceTask]:
    """A search of the same model that was best at this learning rate."""
    trials = tuple((at(rate * 1.01), loss(rate, best)) for rate in RATES)
    return [SourceTask("earlier", None, trials)]


def acquisition(
    known: Sequence[SourceTask] = (), opening: Sequence[float] = (), fits: Fits = always_feasible
) -> Acquisition:
    points = [at(rate) for rate in opening]
    problem = Problem(
        SPACE, rungs=RUNGS, initial_points=points, source_tasks=known, is_feasible=fits
    )
    return Acquisition(problem, GpRules())


def complete(number: int, rate: float, *losses: float) -> Observation:
    return Observation(number, at(rate), losses, min(losses))


def fits_none(point: Hyperparameters) -> bool:
    return False


def rate_of(advice: Hyperparameters | Observation | None) -> float:
    assert isinstance(advice, Hyperparameters)
    return advice.learning_rate


@pytest.mark.parametrize("best", [1e-4, 2e-3])
def test_first_proposal_is_where_an_earlier_search_was_best(best: float) -> None:
    advice = acquisition(earlier(best), opening=[1e-2]).propose([], LINE).choice
    assert 0.5 < rate_of(advice) / best < 2


def test_without_knowledge_the_opening_comes_first_and_then_the_surrogate() -> None:
    one = acquisition(opening=[3e-5, 6e-3])
    seen: list[Observation] = []
    assert rate_of(one.propose(seen, LINE).choice) == 3e-5
    seen.append(complete(0, 3e-5, 2.0, 1.5))
    assert rate_of(one.propose(seen, LINE).choice) == 6e-3
    seen.append(complete(1, 6e-3, 2.0, 1.5))
    assert one.propose(seen, LINE).choice in LINE


def test_with_knowledge_the_opening_comes_after_two_points() -> None:
    one = acquisition(earlier(1e-3), opening=[1e-5])
    seen = [complete(0, 1e-3, 1.2, 1.0)]
    assert rate_of(one.propose(seen, LINE).choice) != 1e-5
    seen.append(complete(1, 1.5e-3, 1.2, 1.1))
    assert rate_of(one.propose(seen, LINE).choice) == 1e-5


def test_point_of_the_opening_that_does_not_fit_is_passed_over() -> None:
    one = acquisition(opening=[3e-5, 6e-3], fits=lambda point: point.learning_rate > 1e-3)
    assert rate_of(one.propose([], LINE).choice) == 6e-3


def test_own_trials_draw_the_proposals_to_the_best() -> None:
    seen = [complete(n, rate, loss(rate, 3e-4)) for n, rate in enumerate(RATES[::5])]
    left = [point for point in LINE if point not in {trial.hyperparameters for trial in seen}]
    assert 0.4 < rate_of(acquisition().propose(seen, left).choice) / 3e-4 < 2.5


def told(finals: int = 4) -> list[Observation]:
    """Complete trials that fall by the same share from each rung to the end, best at 3e-4."""
    rates = [1e-4, 2e-4, 4e-4, 8e-4, 1.6e-3][:finals]
    return [
        complete(n, one, *(loss(one, 3e-4) * factor for factor in (1.5, 1.2, 1.1, 1.0)))
        for n, one in enumerate(rates)
    ]


def running(first_loss: float, rate: float = 5e-5) -> Observation:
    return Observation(99, at(rate), (first_loss,))


def test_best_third_at_a_rung_goes_on_whatever_else_there_is() -> None:
    seen = [*told(finals=5), Observation(7, at(5e-3), (3.0,))]
    first_losses = sorted(trial.losses[0] for trial in seen)
    one = acquisition(earlier(3e-4))
    second_best = running(first_losses[1] - 1e-6, rate=9e-3)
    assert one.should_continue([*seen, second_best], 99, LINE)


def test_hopeless_trial_is_stopped_at_its_first_rung() -> None:
    assert not acquisition().should_continue([*told(), running(4.0)], 99, LINE)


def test_trial_goes_on_while_none_is_there_to_compare_with() -> None:
    assert acquisition().should_continue([running(4.0)], 99, LINE)


def test_trial_is_not_stopped_for_points_that_do_not_fit() -> None:
    seen = [*told(), running(4.0)]
    assert acquisition(fits=fits_none).should_continue(seen, 99, LINE)
    assert acquisition().should_continue(seen, 99, [])


def test_stopped_trial_is_proposed_again_when_its_forecast_is_the_best_use() -> None:
    promising = Observation(8, at(3e-4), (1.2,))
    beside_a_bad_one = [at(1.7e-3)]
    seen = [*told(finals=5), promising]
    assert acquisition().propose(seen, beside_a_bad_one).choice is promising
    without_gain = Observation(8, at(5e-3), (4.0,))
    assert acquisition().propose([*told(), without_gain], LINE).choice is not without_gain


@pytest.mark.parametrize("flaw", [{"diverged": True}, {"fits": False}])
def test_trial_that_diverged_or_did_not_fit_is_never_proposed_again(flaw: dict[str, bool]) -> None:
    stopped = Observation(8, at(3e-4), (1.2,), **flaw)
    assert acquisition().propose([*told(), stopped], []).choice is None
    assert acquisition().propose([*told(), stopped], [at(1e-2)]).choice == at(1e-2)


def test_only_candidate_that_fits_is_proposed_however_bad_it_is() -> None:
    worst = at(1e-2)
    one = acquisition(earlier(1e-4), fits=lambda point: point == worst)
    assert one.propose(told(), LINE).choice == worst


def test_where_none_fits_a_stopped_trial_is_proposed_or_else_what_does_not_fit() -> None:
    without_gain = Observation(8, at(5e-3), (4.0,))
    one = acquisition(fits=fits_none)
    assert one.propose([*told(), without_gain], LINE).choice is without_gain
    assert one.propose(told(), LINE).choice in LINE


def test_nothing_is_proposed_where_nothing_is_left() -> None:
    assert acquisition().propose(told(), []).choice is None


def choices(values: Sequence[object]) -> st.SearchStrategy[list[object]]:
    return st.lists(st.sampled_from(values), min_size=1, max_size=3, unique=True)


RATE = st.floats(1e-7, 1.0)
SPACES = st.builds(
    lambda low, high, **values: make_space(
        learning_rate={"min": min(low, high), "max": max(low, high)}, **values
    ),
    RATE,
    RATE,
    optim=choices(list(OPTIMIZERS)),
    lora_target=choices(["qv", "qkvo", "all", "q_proj,unheard_of"]),
    lora_rank=choices([1, 4, 16, 1024]),
    cutoff_len=choices([16, 512, 100_000]),
    batch_size=choices([1, 8, 512]),
    lora_alpha=st.sampled_from([None, {"ratio": [1, 2]}, {"ratio": 3}, [8, 64], 16]),
    lora_dropout=st.sampled_from([None, 0.1, [0, 0.1], {"min": 0, "max": 0.2}]),
)


@given(SPACES, st.integers(0, 99))
def test_candidates_lie_in_any_space_and_are_new_and_distinct(
    space: SearchSpace, seed: int
) -> None:
    draw = random.Random(seed)
    seen = [
        Observation(n, point, (1.0 + n,)) for n, point in enumerate(candidates(space, [], draw)[:3])
    ]
    found = candidates(space, seen, draw)
    assert all(space.contains(point) for point in found)
    assert len(set(found)) == len(found)
    assert not set(found) & {trial.hyperparameters for trial in seen}
    assert all(Hyperparameters.model_validate(point.model_dump()) == point for point in found)


def test_candidates_lie_near_the_best_trials() -> None:
    space = make_space(learning_rate={"min": 1e-7, "max": 1.0})
    best = Observation(0, at(1e-4), (1.0,), 1.0)
    found = candidates(space, [best], random.Random(0))
    near = [p for p in found if 0.2 < p.learning_rate / 1e-4 < 5 and p.lora_target == "all"]
    assert len(near) > NEAR_CANDIDATES / 2


def test_single_point_is_a_candidate_until_it_is_seen() -> None:
    space = SPACE.model_copy(update={"learning_rate": make_space(learning_rate=1e-4).learning_rate})
    assert candidates(space, [], random.Random(0)) == [at(1e-4)]
    assert candidates(space, [Observation(0, at(1e-4))], random.Random(0)) == []
    longer = at(1e-4).model_copy(update={"cutoff_len": 2048})  # of a larger space
    assert candidates(space, [Observation(0, longer, (1.5,), 1.4)], random.Random(0)) == []


def test_merged_trial_knows_what_each_of_its_attempts_showed() -> None:
    stopped, again = Observation(1, at(1e-4), (2.0, 1.5)), Observation(5, at(1e-4), (2.0,))
    assert merge_observations([stopped, Observation(2, at(1e-3)), again]) == [
        Observation(5, at(1e-4), (2.0, 1.5)),
        Observation(2, at(1e-3)),
    ]
    done = Observation(6, at(1e-4), (2.0, 1.5, 1.2), 1.1)
    (one,) = merge_observations([stopped, done])
    assert (one.final, one.is_stopped) == (1.1, False)
    (one,) = merge_observations([stopped, Observation(6, at(1e-4), diverged=True)])
    assert one.diverged and not one.is_stopped
    (one,) = merge_observations([stopped, Observation(6, at(1e-4), fits=False)])
    assert not one.is_stopped


# Through `Search`, with its database


def tell(search: Search, rate_losses: Sequence[float], outcome: Outcome) -> int:
    number = search.ask().number
    for rung, value in zip(RUNGS, rate_losses, strict=False):
        search.should_prune(number, rung, value)
    search.tell(number, outcome, min(rate_losses) if outcome == "complete" else None, -0.1)
    return number


@pytest.mark.parametrize(
    ("outcome", "is_again"),
    [("pruned", True), ("diverged", False), ("oom", False), ("complete", False)],
)
def test_stopped_trial_runs_again_as_a_retry_of_itself(
    open_search: OpenSearch, outcome: Outcome, is_again: bool
) -> None:
    search = open_search(SPACE)
    search.problem.candidates = lambda seen: [at(3e-4)]
    first = search.ask()
    search.should_prune(first.number, RUNGS[0], 1.2)
    search.tell(first.number, outcome, 1.2 if outcome == "complete" else None, -0.1)
    search.problem.candidates = lambda seen: []
    again = search.ask()
    assert (again.retry_of == first.number) is is_again
    assert (again.hyperparameters == first.hyperparameters) is is_again


def test_trial_that_runs_again_is_not_stopped_where_it_was_before(open_search: OpenSearch) -> None:
    search = open_search(SPACE, initial_points=[at(2e-4), at(5e-5)])
    tell(search, [1.5, 1.2, 1.1], "complete")
    stopped = search.ask()
    assert search.should_prune(stopped.number, RUNGS[0], 4.0)
    search.tell(stopped.number, "pruned", None, -0.1)
    search.problem.candidates = lambda seen: []
    again = search.ask()
    assert again.retry_of == stopped.number
    search.problem.candidates = None
    assert not search.should_prune(again.number, RUNGS[0], 4.0)
    assert search.should_prune(again.number, RUNGS[1], 4.0)


def test_search_proposes_no_point_that_does_not_fit(open_search: OpenSearch) -> None:
    def fits(point: Hyperparameters) -> bool:
        return point.lora_target == "qv" and point.lora_rank == 4

    search = open_search(SearchSpace(), is_feasible=fits)
    for _ in range(4):
        proposal = search.ask()
        assert fits(proposal.hyperparameters)
        search.tell(proposal.number, "complete", 1.0 + proposal.number, -0.1)


def test_proposal_with_its_gain_takes_one_fit_and_an_enqueued_point_takes_none(
    open_search: OpenSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted, asked = Mock(wraps=Surrogate), Mock(return_value=True)
    monkeypatch.setattr("vram_search.search.gp.acquisition.Surrogate", fitted)
    search = open_search(SPACE, is_feasible=asked)
    search.enqueue(at(1e-4))
    waited = search.ask()
    search.tell(waited.number, "complete", 1.0, -0.1)
    assert (waited.was_enqueued, waited.gain) == (True, None)
    assert (fitted.call_count, asked.call_count) == (0, 0)
    gain = search.ask().gain
    assert gain is not None and math.isfinite(gain)
    assert (fitted.call_count, asked.call_count) == (1, 1)


def test_one_of_the_best_goes_on_without_a_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted = Mock(wraps=Surrogate)
    monkeypatch.setattr("vram_search.search.gp.acquisition.Surrogate", fitted)
    assert acquisition().should_continue([*told(), running(0.5)], 99, LINE)
    assert fitted.call_count == 0


@pytest.mark.parametrize("losses", [[1.0] * 6, [0.0] * 6, [0.0, 9.0, 1.0, 1e9, 1e-9, 1.0]])
@pytest.mark.parametrize("rungs", [(), RUNGS])
def test_search_lives_with_equal_and_extreme_losses(
    open_search: OpenSearch, losses: list[float], rungs: Sequence[float]
) -> None:
    search = open_search(SearchSpace(), rungs=rungs, source_tasks=earlier(3e-4))
    proposed = []
    for number, value in enumerate(losses):
        proposal = search.ask()
        proposed.append(proposal.hyperparameters)
        pruned = search.should_prune(proposal.number, 1 / 9, value)
        assert not (pruned and not rungs)
        outcome: Outcome = "pruned" if pruned or number % 3 == 2 else "complete"
        search.tell(proposal.number, outcome, None if outcome == "pruned" else value, -0.1)
    if not rungs:
        assert len(set(proposed)) == len(proposed)


def test_space_of_one_point_is_proposed_and_then_repeated(open_search: OpenSearch) -> None:
    """`run` drops the repetitions and ends."""
    space = SPACE.model_copy(update={"learning_rate": make_space(learning_rate=1e-4).learning_rate})
    search = open_search(space)
    assert search.ask().hyperparameters == at(1e-4)
    search.tell(0, "complete", 1.0, -0.1)
    assert search.ask().hyperparameters == at(1e-4)


def test_two_searches_of_one_seed_propose_the_same(open_search: OpenSearch) -> None:
    proposed = []
    for name in ("one", "other"):
        search = open_search(study=name, seed=3, source_tasks=earlier(3e-4))
        for number in range(4):
            proposal = search.ask()
            proposed.append(proposal.hyperparameters)
            search.tell(proposal.number, "complete", 1.0 + number, -0.1)
    assert proposed[:4] == proposed[4:]
    assert len(set(proposed)) == 4


def test_losses_told_after_a_change_of_the_space_know_what_diverged(
    open_search: OpenSearch, optuna_trials: OptunaTrials, store: Store, study: StudyRecord
) -> None:
    trial = store.start_trial(study.id, 0, at(1e-3).model_dump(), 1, "d")
    store.finish_trial(trial, TrialResult("diverged"))
    search = open_search(SPACE, revision=2)
    search.learn(store.trials(study.id))
    (known,) = observe(optuna_trials(2), search.problem)
    assert known.diverged
    assert np.isfinite(rate_of(search.ask().hyperparameters))
