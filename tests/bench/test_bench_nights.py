"""Whole nights on synthetic tables, and what the command prints."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench.search import strategies
from bench.search.__main__ import main
from bench.search.nights import Nights, Setting, TaskResults, play_all
from bench.search.output import HEAD, table
from bench.search.picture import curves, loss_at
from bench.search.replay import Costs, Replay
from bench.search.strategies import LEVERS, STRATEGIES, our_rules
from bench.search.synthetic import synthetic_rows
from bench.search.table import Table, read_tables
from vram_search.spec.initial_points import initial_points

EVERY = STRATEGIES | LEVERS
ALWAYS = [name for name, strategy in EVERY.items() if not strategy.missing]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tables") / "synthetic.jsonl"
    rows = synthetic_rows("small", configs=40, seed=3)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def synthetic(file: Path) -> Table:
    return read_tables([file])[0]


Play = Callable[..., Replay]


@pytest.fixture(scope="module")
def played(synthetic: Table) -> Play:
    """Plays the night of a strategy once for all tests."""

    @cache
    def play_once(name: str, night_trials: int = 8) -> Replay:
        return play(synthetic, name, night_trials)

    return play_once


def play(synthetic: Table, name: str, night_trials: int = 8) -> Replay:
    setting = Setting.of(synthetic, synthetic.limit_bytes(0.2), Costs(), night_trials)
    strategy = EVERY[name]
    rules = strategy.rules or our_rules()
    replay = Replay(synthetic, setting.limit_bytes, setting.night, rules, seed=1)
    strategy.run(replay)
    return replay


@pytest.mark.parametrize("name", ALWAYS)
def test_strategy_plays_a_night_without_trying_a_configuration_twice(
    played: Play, name: str
) -> None:
    replay = played(name)
    tried = Counter(trial.config.name for trial in replay.trials)
    pruned = Counter(trial.config.name for trial in replay.trials if trial.outcome == "pruned")
    assert all(count <= pruned[config] + 1 for config, count in tried.items()), "but a pruned one"
    assert not replay.is_open or name in ("grid", "published"), "only lists end by themselves"
    assert any(trial.outcome == "complete" for trial in replay.trials)


@pytest.mark.parametrize("name", ["tpe", "tpe+median", "ours"])
def test_nights_of_one_seed_are_equal(synthetic: Table, played: Play, name: str) -> None:
    one, other = (
        [(trial.config.name, trial.ended) for trial in night.trials]
        for night in (played(name), play(synthetic, name))
    )
    assert one == other


def test_ours_spends_nothing_on_what_does_not_fit_and_peers_do(played: Play) -> None:
    ours = played("ours")
    assert not {"oom", "infeasible"} & {trial.outcome for trial in ours.trials}
    assert any(trial.outcome == "oom" for trial in played("tpe", 40).trials)


@pytest.mark.slow  # tests/search/test_search_global_stopping.py holds the rule
def test_ours_ends_before_the_night_where_nothing_better_is_to_be_expected(
    synthetic: Table, played: Play
) -> None:
    early, late = (played(name, 20) for name in ("ours", "all night"))
    assert early.clock < late.clock
    best = synthetic.best(early.limit_bytes)
    assert any(t.config is best and t.outcome == "complete" for t in early.trials)


@pytest.mark.parametrize("name", ["ours", "our tpe", "tpe+median", "tpe+hyperband"])
def test_pruners_end_trials_early(played: Play, name: str) -> None:
    outcomes = [trial.outcome for trial in played(name, 40).trials]
    assert "pruned" in outcomes


def test_without_knowledge_ours_begins_with_what_is_nearest_to_a_published_point_and_fits(
    synthetic: Table, played: Play
) -> None:
    ours = played("no transfer")
    published = initial_points(synthetic.space)
    everything = Replay(synthetic, ours.limit_bytes, ours.night, our_rules(), seed=1)
    nearest = [everything.nearest(point) for point in published]
    assert ours.trials[0].config is next(c for c in nearest if everything.excess(c) <= 0)


def test_synthetic_table_says_so_and_has_the_noise_of_real_seeds(synthetic: Table) -> None:
    assert synthetic.task == "small (synthetic)"
    assert synthetic.seed_noise() == pytest.approx(0.0024, rel=0.5)
    limit = synthetic.limit_bytes(0.0)
    assert 1.6 < synthetic.best(limit).loss() < 1.7


@pytest.fixture(scope="module")
def two_nights(synthetic: Table) -> TaskResults:
    """Of each strategy."""
    setting = Setting.of(synthetic, synthetic.limit_bytes(0.2), Costs(), 5)
    return TaskResults(
        setting,
        {name: [setting.play(name, seed) for seed in range(2)] for name in ("random", "ours")},
    )


def test_table_is_at_most_80_columns_wide(two_nights: TaskResults) -> None:
    text = table(two_nights)
    assert HEAD in text
    assert max(map(len, text.splitlines())) <= 80
    assert "nights in which ours ends worse than random" in text


def test_picture_holds_a_curve_of_each_strategy(two_nights: TaskResults) -> None:
    chart = curves(two_nights)
    ElementTree.fromstring(chart.document())
    for place in range(2):
        assert f"class='curve s{place}{' main' if place else ''}'" in chart.body
    night = two_nights.results["ours"][0]
    first = night.incumbents[0]
    assert loss_at(night.incumbents, first.seconds - 1) == float("inf")
    assert loss_at(night.incumbents, first.seconds) == first.loss


def test_command_prints_json_and_writes_a_picture(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--table", str(file), "--seeds", "1", "--night-trials", "3", "--json"]
    arguments += ["--strategy", "random", "--strategy", "ours", "--svg", str(tmp_path)]
    assert main(arguments) == 0
    (task,) = json.loads(capsys.readouterr().out)["tasks"]
    assert task["task"] == "small (synthetic)"
    assert [one["strategy"] for one in task["strategies"]] == ["random", "ours"]
    assert len(task["nights"]) == 2
    assert [file.suffix for file in tmp_path.iterdir()] == [".svg"]


def test_unknown_strategy_is_an_input_error(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--table", str(file), "--strategy", "guess"]) == 2
    assert "no strategy 'guess'" in capsys.readouterr().err


def test_limit_that_nothing_fits_is_an_input_error(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--table", str(file), "--limit-gib", "0.01"]) == 2
    assert "raise --limit-gib" in capsys.readouterr().err


def test_strategy_whose_library_is_missing_is_left_out_and_named(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = strategies.Strategy("simple", "random_search", needs=("no_such_library",))
    monkeypatch.setitem(STRATEGIES, "asha", absent)
    arguments = ["--table", str(file), "--seeds", "1", "--night-trials", "2"]
    assert main([*arguments, "--strategy", "asha", "--strategy", "random"]) == 0
    assert "left out: asha (needs no_such_library)" in capsys.readouterr().err
    assert main([*arguments, "--strategy", "asha"]) == 2
    assert "vram-search[bench]" in capsys.readouterr().err


def test_nights_of_a_file_are_not_played_again(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "nights.jsonl"
    arguments = ["--table", str(file), "--seeds", "2", "--night-trials", "3", "--json"]
    arguments += ["--strategy", "random", "--nights", str(kept)]
    assert main(arguments) == 0
    first = capsys.readouterr().out
    lines = kept.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 2

    absent = strategies.Strategy("simple", "no_such_function", needs=("no_such_library",))
    monkeypatch.setitem(STRATEGIES, "random", absent)
    assert main(arguments) == 0
    assert capsys.readouterr().out == first, "also where its library is missing"
    assert main([*arguments, "--equal-terms"]) == 2, "other terms are other nights"
    assert kept.read_text(encoding="utf-8").splitlines() == lines


def test_night_that_fails_leaves_the_others(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    setting = Setting.of(read_tables([file])[0], 1 << 60, Costs(), 2)
    nights = Nights(tmp_path / "nights.jsonl")
    names = ["random", "no such strategy"]
    (found,) = play_all([setting], names, 1, 1, nights)
    assert list(found.results) == ["random"]
    assert "no such strategy, seed 0: KeyError" in capsys.readouterr().err


def test_each_seed_plays_on_a_part_of_its_own(synthetic: Table) -> None:
    limit = synthetic.limit_bytes(0.2)
    half = Setting.of(synthetic, limit, Costs(), 4, part=0.5)
    assert half.key != Setting.of(synthetic, limit, Costs(), 4).key
    one, other = synthetic.part(0.5, 1), synthetic.part(0.5, 2)
    assert one == synthetic.part(0.5, 1)
    assert set(one.configs) != set(other.configs)
    assert len(one.configs) == 20
    assert set(one.configs) | set(one.left_out) == set(synthetic.configs)
    best = one.best(limit).loss()
    found = half.play("random", 1)
    assert found.regret == pytest.approx(min(i.loss for i in found.incumbents) - best)
