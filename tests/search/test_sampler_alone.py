"""The sampler and the pruner of `gp` in a plain Optuna study, as docs/sampler.md shows them."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from vram_search.search.gp.candidates import candidates
from vram_search.search.gp.rules import GpRules
from vram_search.search.gp.sampler import GpPruner, GpSampler
from vram_search.search.gp.transfer import SourceTask, shipped
from vram_search.search.problem import Problem
from vram_search.search.strategy import EXPECTED_GAIN, RETRY_OF
from vram_search.spec import Hyperparameters, SearchSpace

PAGE = Path(__file__).parents[2] / "docs" / "sampler.md"
RUNGS = (1 / 9, 1 / 3)
SPACE = SearchSpace.model_validate(
    {
        "optim": "adamw_8bit",
        "lora_target": "all",
        "lora_rank": [8, 16],
        "cutoff_len": 512,
        "batch_size": 8,
        "learning_rate": {"min": 1e-5, "max": 1e-2},
    }
)

optuna.logging.set_verbosity(optuna.logging.WARNING)


def final_loss(point: Hyperparameters) -> float:
    return 1.0 + 0.2 * math.log10(point.learning_rate / 5e-4) ** 2


def train(point: Hyperparameters) -> Iterator[float]:
    """Losses at two rungs and at the end."""
    for factor in (1.4, 1.15, 1.0):
        yield final_loss(point) * factor


def optimize(sampler: GpSampler, trials: int) -> optuna.Study:
    def objective(trial: optuna.Trial) -> float:
        loss = math.nan
        for rung, loss in enumerate(train(sampler.suggest(trial))):
            trial.report(loss, rung)
            if trial.should_prune():
                raise optuna.TrialPruned
        return loss

    study = optuna.create_study(sampler=sampler, pruner=GpPruner(sampler))
    study.optimize(objective, n_trials=trials)
    return study


def test_script_in_the_documentation_runs_and_finds_a_good_learning_rate() -> None:
    (script,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len([line for line in script.splitlines() if line.strip()]) <= 15
    names: dict[str, object] = {"train": train}
    exec(compile(script, str(PAGE), "exec"), names)
    study = names["study"]
    assert isinstance(study, optuna.Study)
    assert len(study.trials) == 20
    assert study.best_value < 1.02
    assert any(trial.state == TrialState.PRUNED for trial in study.trials)


def test_earlier_searches_decide_the_first_point() -> None:
    first = {}
    for name, tasks in (("with", shipped()), ("without", ())):
        study = optimize(GpSampler(Problem(SPACE, rungs=RUNGS, source_tasks=tasks), seed=3), 1)
        first[name] = study.trials[0].params["learning_rate"]
    assert 1e-4 < first["with"] < 5e-3
    assert first["with"] != first["without"]


def test_point_that_does_not_fit_is_not_proposed() -> None:
    problem = Problem(SPACE, rungs=RUNGS, is_feasible=lambda point: point.lora_rank == 8)
    study = optimize(GpSampler(problem, seed=3), 6)
    assert {trial.params["lora_rank_index"] for trial in study.trials} == {0}


def rates_asked_at_once(
    source_tasks: Sequence[SourceTask] = (), *, fails: bool = False
) -> list[float]:
    """Logarithms of the learning rates of four proposals, ascending; each keeps running, or fails
    at once and is forgotten."""
    sampler = GpSampler(Problem(SPACE, rungs=RUNGS, source_tasks=source_tasks), seed=3)
    study = optuna.create_study(sampler=sampler)
    rates = []
    for _ in range(4):
        trial = study.ask()
        rates.append(math.log10(sampler.suggest(trial).learning_rate))
        if fails:
            study.tell(trial, state=TrialState.FAIL)
    return sorted(rates)


def test_proposals_spread_while_trials_are_running() -> None:
    running, forgotten = (rates_asked_at_once(shipped(), fails=fails) for fails in (False, True))
    assert running[-1] - running[0] > 3 * (forgotten[-1] - forgotten[0])


def test_proposals_keep_a_distance_where_nothing_is_known() -> None:
    assert min(b - a for a, b in pairwise(rates_asked_at_once())) > 0.2


def test_trial_of_another_worker_is_neither_repeated_nor_stopped() -> None:
    problem = Problem(SPACE, rungs=RUNGS, candidates=lambda seen: [])
    sampler = GpSampler(problem, seed=3)
    study = optuna.create_study(sampler=sampler, pruner=GpPruner(sampler))
    other = study.ask()
    point = sampler.suggest(other)
    other.report(1.0, 0)
    trial = study.ask()
    assert sampler.suggest(trial) != point
    assert RETRY_OF not in study.trials[trial.number].user_attrs


def test_stopped_trial_is_proposed_again_with_its_number() -> None:
    problem = Problem(SPACE, rungs=RUNGS)
    sampler = GpSampler(problem, seed=3)
    study = optuna.create_study(sampler=sampler, pruner=GpPruner(sampler))
    stopped = study.ask()
    point = sampler.suggest(stopped)
    stopped.report(1.0, 0)
    study.tell(stopped, state=TrialState.PRUNED)
    problem.candidates = lambda seen: []
    again = study.ask()
    assert sampler.suggest(again) == point
    known = study.trials[again.number]
    assert known.user_attrs[RETRY_OF] == stopped.number
    assert known.system_attrs[EXPECTED_GAIN] > 0


def test_trial_that_reports_its_end_is_not_stopped() -> None:
    sampler = GpSampler(Problem(SPACE, rungs=RUNGS), seed=3, rules=GpRules(running_trial_bonus=0))
    study = optuna.create_study(sampler=sampler, pruner=GpPruner(sampler))
    for loss in (1.0, 1.01, 1.02, 9.0):
        trial = study.ask()
        sampler.suggest(trial)
        trial.report(loss, 0)
        stops_at_rung = trial.should_prune()
        trial.report(loss, len(RUNGS))
        assert not trial.should_prune()
        study.tell(trial, loss)
    assert stops_at_rung, "its loss is far above the others"


def test_study_that_maximizes_is_refused() -> None:
    sampler = GpSampler(Problem(SPACE))
    study = optuna.create_study(sampler=sampler, direction="maximize")
    with pytest.raises(ValueError, match="minimize"):
        sampler.suggest(study.ask())


def test_point_that_was_chosen_but_not_recorded_is_not_chosen_again() -> None:
    points = tuple(candidates(SPACE, (), random.Random(1)))[:20]
    sampler = GpSampler(Problem(SPACE, candidates=lambda seen: points))
    study = optuna.create_study(sampler=sampler)
    asked = [study.ask() for _ in range(4)]
    chosen = [sampler.sample_relative(study, study.trials[one.number], {}) for one in asked]
    assert len({tuple(point.items()) for point in chosen}) == 4


def test_several_threads_share_one_sampler() -> None:
    sampler = GpSampler(Problem(SPACE, rungs=RUNGS), seed=3)
    study = optuna.create_study(sampler=sampler, pruner=GpPruner(sampler))
    study.optimize(lambda trial: final_loss(sampler.suggest(trial)), n_trials=8, n_jobs=2)
    points = [tuple(trial.params.items()) for trial in study.trials]
    assert len(set(points)) == 8
