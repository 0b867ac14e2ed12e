"""What a first-time user stumbled over in the questions about a recorded search."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.questions.conftest import RUNGS, Ask, Search
from vram_search.store import Evaluation, ImportedTrial, TrialResult
from vram_search.units import GIB, MIB


def import_a_run(search: Search) -> None:
    run = ImportedTrial(
        fingerprint="f" * 64,
        provenance={"run": "old", "source": "csv", "model": {"name": "a model"}},
        hyperparameters={},
        result=TrialResult("complete", eval_loss=0.5),
    )
    search.store.import_trials("elsewhere", [run])


def test_imported_runs_do_not_become_the_study_that_is_meant(ask: Ask, search: Search) -> None:
    search.add(loss=1.0)
    import_a_run(search)
    assert ask("best", "--json").json["study"] == "night"
    assert ask("best", "--json", "--study", "elsewhere").json["study"] == "elsewhere"


def test_study_that_is_meant_is_named_if_there_are_several(ask: Ask, search: Search) -> None:
    search.add(loss=1.0)
    assert ask("best").err == ""
    import_a_run(search)
    said = "study night, the latest search of 2 studies; --study NAME chooses another\n"
    assert ask("best").err == said
    assert ask("best", "--study", "night").err == ""


def test_saving_of_the_sweet_spot_compares_figures_of_one_kind(ask: Ask, search: Search) -> None:
    """The best was measured, the sweet spot was only predicted."""
    search.add(shifts=[0, 0, 0, 0], gib=9.30, measured={"required_bytes": round(9.35 * GIB)})
    search.add(shifts=[1, -1, 1, -0.9], gib=9.31)
    said = ask("best").words
    assert "less than the best" not in said


def test_saving_below_one_percent_is_no_practical_difference(ask: Ask, search: Search) -> None:
    search.add(shifts=[0, 0, 0, 0], gib=9.31)
    search.add(shifts=[1, -1, 1, -0.9], gib=9.31 - 45 * MIB / GIB)
    assert "no practical difference to the best" in ask("best").words


@pytest.mark.parametrize(
    ("strategy", "words"),
    [
        ("tpe", "no complete trial existed to compare it with"),
        ("gp", "no other configuration had reached this point"),
    ],
)
def test_first_pruned_trial_says_that_there_was_none_to_compare_with(
    ask: Ask, search: Search, strategy: str, words: str
) -> None:
    search.choose_by([0, strategy])
    rung = [Evaluation(6, RUNGS[0], 1.86)]
    number = search.add("pruned", 1.86, evaluations=rung, steps_done=6)
    assert words in ask("why", number).words


def test_top_keeps_names_whole_in_a_narrow_terminal(
    ask: Ask, search: Search, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from vram_search.cli.main import main

    search.add(hyperparameters={"optim": "adamw_torch_fused"})
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr(sys, "argv", ["vram-search", "top"])
    with pytest.raises(SystemExit):
        main()
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 60
    (row,) = [line for line in printed.splitlines() if re.match(r"0 complete", line)]
    assert "adam" not in printed and "2.0e-4" in row


def test_misspelt_command_is_answered_with_the_nearest_one(ask: Ask) -> None:
    answer = ask("bset")
    assert answer.code == 2
    assert answer.err == "error: no command 'bset'\nremedy: did you mean best?\n"


def test_wrong_option_is_answered_in_the_same_style(ask: Ask) -> None:
    answer = ask("best", "--crad", "x")
    assert answer.code == 2
    assert answer.err.startswith("error: No such option")
    assert "\nremedy: Usage: vram-search best" in answer.err


def test_help_says_that_hub_names_are_models_and_where_files_are_kept(ask: Ask) -> None:
    assert "Qwen/Qwen2.5-7B-Instruct" in " ".join(ask("estimate", "--help").out.split())
    told = " ".join(ask("--help").out.split())
    assert "adapters, exports and logs are beside the database" in told


def test_comparison_of_studies_counts_with_the_card_that_each_names(
    ask: Ask, write_study: Callable[..., Path], tmp_path: Path
) -> None:
    file = write_study(card="rtx-4060-8gb")
    other = tmp_path / "b.yaml"
    other.write_text(file.read_text().replace("rtx-4060-8gb", "l4-24gb"))
    answer = ask("estimate", "--compare", file, other, "--json").json
    assert answer["a_card"] != answer["b_card"]
    assert 0 < answer["a_spare_bytes"] < answer["b_spare_bytes"]
    own = ask("estimate", file, "--json").json["plans"][0]
    (total,) = [t for t in answer["totals"] if t["name"] == "process_bytes"]
    assert total["a_bytes"] == own["process_bytes"]
    printed = ask("estimate", "--compare", file, other).out
    assert printed.count("fits NVIDIA") == 2


def test_mistyped_subcommand_names_the_nearest(ask: Ask) -> None:
    answer = ask("db", "chek")
    assert answer.code == 2
    assert answer.err == "error: no command 'chek'\nremedy: did you mean check?\n"


def test_group_without_a_command_shows_its_help(ask: Ask) -> None:
    answer = ask("db")
    assert answer.code == 2
    assert answer.out.startswith("Usage: vram-search db") and answer.err == ""


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (["top", "-n", "x"], "'x' is not a whole number."),
        (["init", "--hours", "x"], "'x' is not a number."),
        (["--database", "a.db", "best"], "options follow the command: vram-search COMMAND --data"),
    ],
)
def test_wrong_calls_are_answered_in_plain_words(ask: Ask, call: list[str], words: str) -> None:
    answer = ask(*call)
    assert answer.code == 2 and words in answer.err
