"""Figures of a night: who wins, when, and whether rightly."""

from __future__ import annotations

import math

import pytest

from bench.search.metrics import judge, quartiles, standard_error, summarize, sweet_spot
from bench.search.output import ratios
from bench.search.replay import Costs, Replay
from bench.search.table import Table
from tests.bench.conftest import MakeReplay, config_of, table_of

FREE = Costs(start=0.0, between=0.0, oom=50.0)


def losses(best: float, last: float) -> dict[str, list[float]]:
    return {"eval_loss": [3.0, 2.0, best, last]}


TABLE = table_of(
    losses(1.6, 1.7),
    {"lora_rank": 16, **losses(1.5, 1.55)},
    {"lora_rank": 32, **losses(1.51, 1.51)},
    {"lora_rank": 64, "max_allocated_bytes": 9000, **losses(1.0, 1.0)},
)


def played(
    replay_of: MakeReplay, order: list[int], table: Table = TABLE, **changes: float
) -> Replay:
    replay = replay_of(table, costs=FREE, **changes)
    for place in order:
        replay.run(table.configs[place])
    return replay


def test_seconds_count_until_the_incumbent_is_within_one_per_cent(replay_of: MakeReplay) -> None:
    result = judge("any", played(replay_of, [0, 2, 1]))
    assert result.seconds_to_good == pytest.approx(2 * 95), "1.51 is within 1 % of 1.5"
    assert result.regret == pytest.approx(0.0)
    assert result.last_regret == pytest.approx(0.05)


def test_worse_trial_does_not_replace_the_incumbent(replay_of: MakeReplay) -> None:
    result = judge("any", played(replay_of, [0, 1, 2]))
    assert [one.loss for one in result.incumbents] == [1.6, 1.5]


def test_pruned_trial_is_no_winner(replay_of: MakeReplay) -> None:
    replay = replay_of(TABLE, costs=FREE)
    replay.run(TABLE.configs[0])
    replay.run(TABLE.configs[1], lambda share, loss: share > 0.5)
    assert judge("any", replay).regret == pytest.approx(0.1)


def test_trial_that_ends_after_the_night_does_not_count(replay_of: MakeReplay) -> None:
    result = judge("any", played(replay_of, [0, 1], night=150.0))
    assert result.regret == pytest.approx(0.1)
    assert result.complete == 1


def test_night_without_a_winner_never_gets_there(replay_of: MakeReplay) -> None:
    result = judge("any", played(replay_of, []))
    assert result.seconds_to_good is None
    assert result.regret == math.inf
    assert not result.is_right


def test_out_of_memory_counts_by_its_share_of_the_seconds(replay_of: MakeReplay) -> None:
    result = judge("any", played(replay_of, [3, 0]))
    assert result.infeasible_share == pytest.approx(50 / 145)


def test_sweet_spot_is_right_where_examples_cannot_tell_it_from_the_best(
    replay_of: MakeReplay,
) -> None:
    small = {"max_allocated_bytes": 500, **losses(1.51, 1.51)}
    noisy = {"example_loss_sums": [10.0, 30.0, 20.0, 40.0]}
    other = {"example_loss_sums": [30.0, 10.0, 40.0, 20.0]}
    table = table_of({"lora_rank": 16, **losses(1.5, 1.5), **noisy}, {**small, **other})
    replay = played(replay_of, [0, 1], table)
    spot = sweet_spot(replay.trials)
    assert spot is not None
    assert spot.config is table.configs[1]
    assert judge("any", replay).is_right


def test_winner_is_wrong_beyond_the_noise_between_seeds(replay_of: MakeReplay) -> None:
    repeated = config_of(losses(1.5, 1.5), {"seed": 1, **losses(1.502, 1.502)})
    near, far = (config_of({"lora_rank": n, **losses(x, x)}) for n, x in ((16, 1.502), (32, 1.51)))
    table = Table("made up", (repeated, near, far))
    assert judge("any", played(replay_of, [1], table)).is_right
    assert not judge("any", played(replay_of, [2], table)).is_right
    assert standard_error(near, far, None) == 0.0


def test_summary_counts_the_seeds_that_end_worse_than_random(replay_of: MakeReplay) -> None:
    good, bad = judge("a", played(replay_of, [1])), judge("a", played(replay_of, [0]))
    assert summarize("a", [good, bad], [bad, good]).worse_than_random == 1
    assert summarize("a", [good, bad], None).worse_than_random is None


def test_ratios_are_ours_over_tpe_and_over_the_best_peer(replay_of: MakeReplay) -> None:
    fast, slow = judge("ours", played(replay_of, [1])), judge("tpe", played(replay_of, [0, 1]))
    never = judge("grid", played(replay_of, [0]))
    nights = {"grid": never, "tpe": slow, "ours": fast}
    summaries = [summarize(name, [night], None) for name, night in nights.items()]
    assert ratios(summaries) == {"ours / tpe": 0.5, "ours / best peer (tpe)": 0.5}
    beside_never = [summarize(name, [one], None) for name, one in (("tpe", never), ("ours", fast))]
    assert ratios(beside_never)["ours / tpe"] is None
    assert ratios([summarize("ours", [never], None), summaries[1]]) == {}


def test_quartiles_are_values_so_that_infinite_ones_stay_where_they_are() -> None:
    assert quartiles([5.0, 1.0, math.inf, 2.0, 3.0]) == (2.0, 3.0, 5.0)
