"""The replayed GPU: what each second is charged for."""

from __future__ import annotations

from typing import Any

import pytest

from bench.search.replay import Costs, Rules, distance
from tests.bench.conftest import MakeReplay, config_of, table_of

COSTS = Costs(start=10.0, between=0.5, oom=12.0)
RESIDENT = Rules(is_resident=True)
PAIR: tuple[dict[str, Any], ...] = ({}, {"lora_rank": 16})


def test_fresh_process_pays_its_start_for_every_trial(replay_of: MakeReplay) -> None:
    replay = replay_of(table_of(*PAIR), costs=COSTS)
    seconds = [replay.run(config).seconds for config in replay.table.configs]
    assert seconds == [pytest.approx(10 + 2 + 90 + 3)] * 2


def test_resident_process_pays_its_start_once(replay_of: MakeReplay) -> None:
    replay = replay_of(table_of(*PAIR), RESIDENT, costs=COSTS)
    first, second = (replay.run(config).seconds for config in replay.table.configs)
    assert first - second == pytest.approx(9.5)


def test_table_of_fresh_processes_holds_the_start_in_its_setup(replay_of: MakeReplay) -> None:
    table = table_of(*({**one, "setup_seconds": 12.0} for one in PAIR))
    fresh = replay_of(table, costs=COSTS)
    assert fresh.run(table.configs[0]).seconds == pytest.approx(12 + 93)
    resident = replay_of(table, RESIDENT, costs=COSTS)
    resident.run(table.configs[0])
    assert resident.run(table.configs[1]).seconds == pytest.approx(0.5 + 93)


def test_trial_that_is_ended_pays_only_for_its_steps(replay_of: MakeReplay) -> None:
    replay = replay_of(table_of({}), costs=COSTS)
    asked: list[tuple[float, float | None]] = []

    def end(share: float, loss: float | None) -> bool:
        asked.append((share, loss))
        return True

    trial = replay.run(replay.table.configs[0], end)
    ((share, loss),) = asked
    assert share == pytest.approx(1 / 3)
    assert loss == 2.0
    assert trial.outcome == "pruned"
    assert trial.seconds == pytest.approx(12 + 30 + 1)


def test_value_is_the_best_evaluation_that_was_made(replay_of: MakeReplay) -> None:
    table = table_of({}, {"lora_rank": 16})
    replay = replay_of(table, Rules(evaluate_at=(1 / 3,)))
    trial = replay.run(table.configs[0])
    assert (trial.value, trial.last) == (1.6, 1.6)
    assert replay_of(table).run(table.configs[0]).value == 1.5


def test_what_does_not_fit_costs_an_out_of_memory_unless_it_is_known(
    replay_of: MakeReplay,
) -> None:
    table = table_of({"max_allocated_bytes": 2001})
    blind = replay_of(table, costs=COSTS).run(table.configs[0])
    assert (blind.outcome, blind.seconds) == ("oom", 12.0)
    knowing = replay_of(table, Rules(knows_memory=True), costs=COSTS).run(table.configs[0])
    assert (knowing.outcome, knowing.seconds) == ("infeasible", 0.0)


def test_first_trained_trial_pays_the_start_after_infeasible_ones(replay_of: MakeReplay) -> None:
    table = table_of({"max_allocated_bytes": 2001}, {"lora_rank": 16})
    replay = replay_of(table, Rules(is_resident=True, knows_memory=True), costs=COSTS)
    seconds = [replay.run(config).seconds for config in table.configs]
    assert seconds == [0.0, pytest.approx(10 + 2 + 93)]


def test_training_that_diverges_is_no_candidate(replay_of: MakeReplay) -> None:
    table = table_of({"eval_loss": [3.0, None, None, None]})
    trial = replay_of(table).run(table.configs[0])
    assert (trial.outcome, trial.value) == ("diverged", None)


def test_night_ends_with_its_seconds_or_with_the_table(replay_of: MakeReplay) -> None:
    short = replay_of(table_of(*PAIR), night=50.0)
    short.run(short.table.configs[0])
    assert not short.is_open
    small = replay_of(table_of({}))
    assert small.is_open
    small.run(small.table.configs[0])
    assert not small.is_open


def test_nearest_is_the_closest_configuration_that_was_not_tried(replay_of: MakeReplay) -> None:
    table = table_of(
        {"learning_rate": 1e-4},
        {"learning_rate": 3e-4},
        {"learning_rate": 1e-3, "optim": "lion_8bit"},
    )
    replay = replay_of(table)
    point = config_of({"learning_rate": 9e-4}).hyperparameters
    assert replay.nearest(point) is table.configs[1], "another optimizer is a whole range away"
    replay.run(table.configs[1])
    assert replay.nearest(point) is table.configs[0]


def test_distance_takes_numbers_by_their_logarithmic_range() -> None:
    table = table_of(
        {"learning_rate": 1e-5, "lora_rank": 4}, {"learning_rate": 1e-3, "lora_rank": 64}
    )
    low, high = (config.hyperparameters for config in table.configs)
    middle = config_of({"learning_rate": 1e-4, "lora_rank": 16}).hyperparameters
    assert distance(low, high, table.space) == pytest.approx(2.0)
    assert distance(low, middle, table.space) == pytest.approx(1.0)


def test_trial_that_continues_from_its_checkpoint_pays_only_for_the_steps_after_it(
    replay_of: MakeReplay,
) -> None:
    replay = replay_of(table_of({}), costs=COSTS)
    (config,) = replay.table.configs
    replay.run(config, lambda share, loss: True)
    asked: list[float] = []

    def note(share: float, loss: float | None) -> bool:
        asked.append(share)
        return False

    trial = replay.run(config, note, resumed_at=1 / 3)
    assert asked == [pytest.approx(2 / 3), 1.0]
    assert (trial.outcome, trial.value) == ("complete", 1.5)
    assert trial.seconds == pytest.approx(12 + 60 + 2)
