"""The adapter of other libraries' strategies trains what they ask for and tells them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.search import strategies
from bench.search.metrics import summarize
from bench.search.nights import Setting
from bench.search.peers.adapter import Asked, FullRuns, play
from bench.search.replay import Costs, Rules
from bench.search.simple import published
from bench.search.strategies import BRACKETS, HUB_VARIABLE, STRATEGIES
from bench.search.table import Table
from tests.bench.conftest import MakeReplay, table_of
from vram_search.search.encoding import encode
from vram_search.spec.initial_points import initial_points

NINE = {
    "eval_steps": list(range(0, 91, 10)),
    "eval_loss": [3.0 - 0.1 * step for step in range(10)],
    "eval_seconds": 10.0,
}


class Scripted(FullRuns):
    """Asks for what a test wrote down and notes what it is told."""

    def __init__(self, table: Table, budgets: list[tuple[int, str | None]]) -> None:
        self._params = encode(table.configs[0].hyperparameters, table.space)
        self._budgets = budgets
        self.taken: list[tuple[dict[str, Any], str]] = []
        self.told: list[tuple[float, int]] = []

    def ask(self) -> Asked:
        """The next budget of the script."""
        ninths, resumes = self._budgets[len(self.told)]
        return Asked(self._params, ninths, resumes)

    def take(self, params: dict[str, Any], name: str) -> None:
        """Notes it."""
        self.taken.append((params, name))

    def tell(self, loss: float, ninths: int) -> None:
        """Notes it."""
        self.told.append((loss, ninths))


def test_promoted_trial_continues_and_tells_its_loss_at_the_new_budget(
    replay_of: MakeReplay,
) -> None:
    table = table_of(*({**NINE, "config": f"c{rank}", "lora_rank": rank} for rank in (8, 16)))
    peer = Scripted(table, [(1, None), (9, "c8")])
    replay = replay_of(table, BRACKETS, night=30.0, costs=Costs(start=10.0))
    play(replay, peer)
    assert [name for _, name in peer.taken] == ["c8", "c8"]
    assert [loss for loss, _ in peer.told] == pytest.approx([2.9, 2.1])
    assert [ninths for _, ninths in peer.told] == [1, 9]
    assert [trial.outcome for trial in replay.trials] == ["pruned", "complete"]
    seconds = [trial.seconds for trial in replay.trials]
    assert seconds == [pytest.approx(12 + 10 + 1), pytest.approx(12 + 80 + 2)]


def test_peer_learns_which_configuration_took_the_place_of_its_proposal(
    replay_of: MakeReplay,
) -> None:
    table = table_of({"config": "a"}, {"config": "b", "lora_rank": 16})
    peer = Scripted(table, [(9, None)] * 2)
    play(replay_of(table), peer)
    first, second = peer.taken
    assert (first[1], second[1]) == ("a", "b")
    assert first[0]["lora_rank_index"] != second[0]["lora_rank_index"]


def test_trial_that_fails_counts_as_the_untrained_model(replay_of: MakeReplay) -> None:
    table = table_of(
        {"config": "a", "max_allocated_bytes": 2001},
        {"config": "b", "lora_rank": 16, "eval_loss": [3.0, None, None, None]},
    )
    peer = Scripted(table, [(9, None)] * 2)
    replay = replay_of(table)
    play(replay, peer)
    assert [trial.outcome for trial in replay.trials] == ["oom", "diverged"]
    assert peer.told == [(3.0, 9), (3.0, 9)]


def test_published_defaults_are_trained_and_nothing_else(replay_of: MakeReplay) -> None:
    points = [{"lora_rank": rank, "learning_rate": rank * 1e-5} for rank in range(4, 40, 4)]
    replay = replay_of(table_of(*points), Rules(), night=1e6)
    published(replay)
    assert len(replay.trials) == len(initial_points(replay.table.space))


def test_equal_terms_give_a_peer_one_process_and_known_memory(replay_of: MakeReplay) -> None:
    table = table_of(
        {"config": "a"},
        {"config": "b", "lora_rank": 16},
        {"config": "c", "lora_rank": 32, "max_allocated_bytes": 9000},
    )
    own, long, equal = (
        Setting.of(table, 2000, Costs(start=50), trials, equal_terms=equal).play("random", 0)
        for trials, equal in ((3, False), (4, False), (3, True))
    )
    assert (own.complete, equal.complete) == (1, 2), "one start instead of two"
    assert long.infeasible_share > 0 == equal.infeasible_share


def test_a_night_that_ends_when_it_is_good_has_the_seconds_of_a_whole_one() -> None:
    table = table_of(
        *({"config": str(n), "eval_loss": [3.0, 2.0, 2.0, 1 + n / 20]} for n in range(8))
    )
    whole, short = (
        Setting.of(table, 2000, Costs(start=50), 8, equal_terms=True, until_good=ends).play(
            "random", 4
        )
        for ends in (False, True)
    )
    assert whole.seconds_to_good == short.seconds_to_good is not None
    assert short.trials < whole.trials


def test_hub_sampler_needs_a_checkout_that_holds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler = STRATEGIES["meta tpe"]
    monkeypatch.delenv(HUB_VARIABLE, raising=False)
    assert sampler.missing == ["--optunahub with package/samplers/meta_learn_tpe"]
    monkeypatch.setenv(HUB_VARIABLE, str(tmp_path))
    assert sampler.missing
    (tmp_path / sampler.hub).mkdir(parents=True)
    assert not [one for one in sampler.missing if "optunahub" in one]


def test_summary_compares_with_random_seed_by_seed_where_both_were_played(
    replay_of: MakeReplay,
) -> None:
    table = table_of(*({"lora_rank": rank, "config": f"c{rank}"} for rank in (8, 16, 32)))
    setting = Setting.of(table, 2000, Costs(), 4)
    nights = [setting.play("random", seed) for seed in range(3)]
    worse = [replace(nights[2], regret=nights[2].regret + 1), replace(nights[0], seed=9)]
    assert summarize("peer", worse, nights).worse_than_random == 1
    assert summarize("peer", worse, None).worse_than_random is None


def test_every_strategy_has_a_name_that_fits_the_table() -> None:
    assert max(map(len, strategies.STRATEGIES)) < 14
