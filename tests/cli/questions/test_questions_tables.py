"""`best`, `top`, `pareto` and `importance`: answers over a whole study."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.cli.questions.conftest import BEGAN
from vram_search.estimate.memory_budget import card_memory
from vram_search.spec.card import Card, load_card
from vram_search.store import Evaluation
from vram_search.store.untuned import UntunedEvaluation, record_untuned
from vram_search.units import GIB

Ask = Any
Search = Any


@pytest.fixture
def four(search: Search) -> None:
    """Lowest loss 12 GiB; within one standard error of it 8 GiB; clearly worse 6 and 4 GiB."""
    search.add(gib=12, shifts=[0, 0, 0, 0], minutes=30)
    search.add(gib=8, shifts=[1.2, -1.0, 1.1, -0.9], minutes=20)
    search.add(loss=1.3, gib=6, minutes=5)
    search.add(loss=1.4, gib=4, measured={"required_bytes": 7 * GIB})
    search.add("pruned", loss=0.5, gib=2)


@pytest.mark.usefixtures("four")
def test_best_names_the_sweet_spot_and_why(ask: Ask) -> None:
    words = ask("best").words
    assert "best of study night: trial 0, eval_loss 1.0000 (step 54 of 54)" in words
    assert "sweet spot: trial 1" in words
    assert "of the 2 trials within one standard error, needs the least VRAM: 4.00 GiB" in words
    assert "eval_loss 1.0050, 8.00 GiB needed (predicted), 20 min 0 s" in words


@pytest.mark.usefixtures("four")
def test_best_as_json_keeps_the_best_and_adds_the_sweet_spot(ask: Ask) -> None:
    answer = ask("best", "--json").json
    assert answer["trial"]["number"] == 0
    spot = answer["sweet_spot"]
    assert spot["trial"]["number"] == 1
    best, second = spot["within"]
    assert (best["number"], best["difference"], best["standard_error"]) == (0, 0, 0)
    assert second["difference"] == pytest.approx(0.005)
    assert second["standard_error"] == pytest.approx(0.0303, abs=1e-4)
    assert (second["required_bytes"], second["seconds"]) == (8 * GIB, 1200)


@pytest.mark.usefixtures("four")
@pytest.mark.parametrize("digits", [18, 19, 20, 5000])
def test_numbers_beyond_the_databases_integers_name_no_trial(ask: Ask, digits: int) -> None:
    answer = ask("show", "9" * digits)
    assert (answer.code, answer.out) == (2, "")
    assert "study night has no trial 9" in answer.err


@pytest.mark.usefixtures("four")
def test_number_that_is_none_names_no_trial(ask: Ask) -> None:
    answer = ask("why", "\N{SUPERSCRIPT TWO}")
    assert (answer.code, answer.out) == (2, "")
    assert "is not a trial: give its number, or best" in answer.err


@pytest.mark.usefixtures("four")
def test_more_rows_than_any_study_has_are_all_rows(ask: Ask) -> None:
    assert len(ask("top", "-n", "9" * 20, "--json").json["trials"]) == 4


@pytest.mark.usefixtures("four")
@pytest.mark.parametrize(
    ("options", "number"),
    [
        (["--limit", "12GiB"], 0),
        (["--limit", "11.9GiB"], 1),
        (["--max-vram", "7.5 GiB"], 2),
        (["--time-limit", "20m"], 1),
        (["--time-limit", "19 min"], 2),
        (["--card", "rtx-3080-12gb"], 1),
        (["--card", "rtx-3070-8gb"], 2),
        (["--limit", "12GiB", "--time-limit", "10m"], 2),
    ],
)
def test_best_under_a_limit_is_the_best_that_keeps_it(
    ask: Ask, options: list[str], number: int
) -> None:
    assert ask("best", *options, "--json").json["trial"]["number"] == number


@pytest.mark.usefixtures("four")
def test_measured_required_bytes_decide_under_a_limit(ask: Ask) -> None:
    """Trial 3 was predicted to need 4 GiB and needs 7."""
    assert "trial 2" in ask("best", "--limit", "6GiB").words
    refused = ask("best", "--limit", "5GiB")
    assert refused.code == 2
    assert "no complete trial within 5.00 GiB" in refused.err
    assert "need at least 6.00 GiB (trial 2)" in refused.err
    assert "trial 3" not in refused.err


def test_card_counts_the_margin_of_a_prediction(ask: Ask, search: Search) -> None:
    budget = card_memory(Card.model_validate(load_card("rtx-5060-ti-16gb"))).budget_bytes
    search.add(gib=budget / GIB, predicted={"margin": 0.01})
    search.add(loss=1.1, gib=budget / GIB / 1.02, predicted={"margin": 0.01})
    answer = ask("best", "--card", "rtx-5060-ti-16gb", "--json").json
    assert answer["trial"]["number"] == 1
    assert answer["limits"]["budget_bytes"] == budget
    assert ask("best", "--limit", budget, "--json").json["trial"]["number"] == 0


def test_refused_limit_names_the_bytes_that_it_was_compared_with(ask: Ask, search: Search) -> None:
    search.add(gib=20, predicted={"margin": 0.01})
    assert "need at least 20.00 GiB (trial 0)" in ask("best", "--limit", "1GiB").err
    assert "need at least 20.20 GiB (trial 0)" in ask("best", "--card", "rtx-5060-ti-16gb").err


def test_trial_of_unknown_bytes_keeps_no_limit_of_bytes(ask: Ask, search: Search) -> None:
    search.add(gib=None)
    assert ask("best", "--limit", "1TiB").code == 2
    assert "trial 0" in ask("best", "--time-limit", "1h").out
    (row,) = ask("top", "--csv").csv
    assert row["required_bytes"] == row["required_bytes_origin"] == ""


def test_limit_without_a_unit_is_refused(ask: Ask, search: Search) -> None:
    search.add(gib=5)
    refused = ask("best", "--limit", "12")
    assert refused.code == 2
    assert "--limit: '12' is less than 1 MiB; write a unit, like '16 GiB'" in refused.err


def test_sweet_spot_pairs_the_losses_of_the_best_checkpoints(ask: Ask, search: Search) -> None:
    """Trial 1 is within one standard error at step 18, its best, and far from it at step 54."""
    near, far = [21.2, 19.0, 21.1, 19.1], [40.0, 40.0, 40.0, 40.0]
    search.add(gib=12, shifts=[0, 0, 0, 0])
    evaluations = [
        Evaluation(18, 1 / 3, 1.005, example_loss_sums=near),
        Evaluation(54, 1.0, 2.0, example_loss_sums=far),
    ]
    search.add(loss=1.005, eval_loss_step=18, evaluations=evaluations)
    assert "sweet spot: trial 1" in ask("best").words


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--limit", "much"], "--limit: 'much' is not a size"),
        (["--time-limit", "30"], "--time-limit: '30' is not a duration"),
        (["--time-limit", "0m"], "--time-limit: '0m' is not a duration"),
        (["--card", "rtx-9999"], "no card 'rtx-9999'"),
        (["--json", "--csv"], "--json and --csv exclude each other"),
    ],
)
def test_faulty_option_of_best_is_refused(
    ask: Ask, search: Search, options: list[str], words: str
) -> None:
    search.add()
    answer = ask("best", *options)
    assert (answer.code, answer.out) == (2, "")
    assert words in answer.err


@pytest.mark.parametrize("command", ["best", "pareto"])
def test_study_without_a_complete_trial_is_told_so(ask: Ask, search: Search, command: str) -> None:
    search.add("pruned")
    search.add("complete", loss=None)
    search.add(outcome=None)
    answer = ask(command)
    assert (answer.code, answer.out) == (2, "")
    assert "complete trial" in answer.err and "study night" in answer.err


def test_single_trial_is_its_own_sweet_spot_and_front(ask: Ask, search: Search) -> None:
    search.add()
    assert "sweet spot: the best itself" in ask("best").words
    assert "trial 0 is the best and needs the least" in ask("pareto").words
    assert "Trial 0 is the best" in ask("top").words


def test_tables_begin_with_what_they_mean(ask: Ask, search: Search) -> None:
    search.add(loss=1.2, gib=8)
    search.add(loss=1.1, gib=10)
    assert ask("pareto").words.startswith(
        "2.00 GiB more VRAM (trial 1 instead of 0) buy 0.1000 lower eval_loss."
    )
    assert ask("top").words.startswith(
        "Trial 1 is the best: eval_loss 1.1000. Trial 0 is 0.1000 behind: a clear difference."
    )
    search.add(loss=1.1001, gib=9)
    assert "Trial 2 is 0.0001 behind: no practical difference" in ask("top").words


def test_trials_of_a_long_night_take_one_line_each(ask: Ask, search: Search) -> None:
    longest = {
        "optim": "adamw_torch_fused",
        "lora_target": "qkvo_gu",
        "cutoff_len": 1024,
        "batch_size": 16,
    }
    for number in range(12):
        outcome: Any = "complete" if number else "infeasible"
        search.add(outcome, gib=16.57, hyperparameters=longest, minutes=11)
    table = ask("top", "--all").out
    assert ask("top", "--all").words.count("adamw_torch_fused ~16.57") == 12
    numbers = [line.split()[0] for line in table.splitlines() if "~16.57" in line]
    assert numbers == [str(number) for number in range(12)]


def test_trial_as_csv_has_all_that_json_has(ask: Ask, search: Search) -> None:
    search.add(gib=12, shifts=[0.5, 0, 0, 0])
    said = {row["figure"]: row["value"] for row in ask("show", 0, "--csv").csv}
    known = ask("show", 0, "--json").json
    trial = known["trial"]
    assert said["hyperparameters.learning_rate"] == str(trial["hyperparameters"]["learning_rate"])
    assert said["plan.gradient_checkpointing"] == "true"
    assert said["error"] == "" and trial["error"] is None
    assert json.loads(said["evaluations"]) == known["evaluations"] != []
    assert {name.split(".")[0] for name in said} == {
        "study",
        *trial,
        "step_losses",
        "evaluations",
    }


@pytest.mark.usefixtures("four")
def test_trials_as_csv_have_stable_columns(ask: Ask) -> None:
    rows = ask("top", "--all", "--csv").csv
    assert [row["outcome"] for row in rows] == ["complete"] * 4 + ["pruned"]
    assert rows[3]["required_bytes"] == str(7 * GIB)
    assert [row["required_bytes_origin"] for row in rows[2:4]] == ["predicted", "measured"]
    assert rows[0]["seconds"] == "1800.0"
    assert rows[0]["gradient_checkpointing"] == "true"
    assert rows[0]["run"] == rows[0]["reserved_bytes"] == ""
    assert list(rows[0]) == list(ask("top", "--csv").csv[0])
    roles = ask("best", "--csv").csv
    assert [(row["role"], row["number"]) for row in roles] == [("best", "0"), ("sweet_spot", "1")]


@pytest.mark.usefixtures("four")
def test_front_holds_what_no_other_trial_beats(ask: Ask) -> None:
    trials = {t["number"]: t for t in ask("pareto", "--json").json["trials"]}
    assert list(trials) == [2, 3, 1, 0]
    assert {n: t["beaten_by"] for n, t in trials.items()} == {2: None, 3: 2, 1: None, 0: None}
    assert "on the front" in ask("pareto").words and "beaten" not in ask("pareto").words
    assert "beaten by 2" in ask("pareto", "--all").words
    rows = ask("pareto", "--csv").csv
    assert [row["on_front"] for row in rows] == ["true", "false", "true", "true"]


def test_beaten_trial_names_the_lowest_loss_for_no_more_bytes(ask: Ask, search: Search) -> None:
    for loss, gib in ((1.3, 4), (1.2, 6), (1.1, 9), (1.4, 8)):
        search.add(loss=loss, gib=gib)
    trials = {t["number"]: t for t in ask("pareto", "--json").json["trials"]}
    assert trials[3]["beaten_by"] == 1


def test_equal_trials_are_beaten_by_the_first(ask: Ask, search: Search) -> None:
    search.add()
    search.add()
    trials = ask("pareto", "--json").json["trials"]
    assert [trial["beaten_by"] for trial in trials] == [None, 0]


def test_front_without_any_bytes_is_refused(ask: Ask, search: Search) -> None:
    search.add(gib=None)
    answer = ask("pareto")
    assert answer.code == 2
    assert "VRAM needed" in answer.err and "not known" in answer.err


def test_hyperparameter_that_decides_is_named_first(ask: Ask, search: Search) -> None:
    for rank in (4, 8, 16, 32):
        for optim, loss in (("adamw_8bit", 1.0), ("lion_8bit", 1.3)):
            hp = {"optim": optim, "lora_rank": rank, "lora_alpha": 2 * rank}
            search.add(loss=loss + rank % 7 / 1000, hyperparameters=hp)
    found = ask("importance", "--json").json
    assert found["trials"] == 8
    assert [item["hyperparameter"] for item in found["importances"]] == ["optim", "lora_rank"]
    answer = ask("importance")
    assert "settings explain: optim 74 %. No visible difference: lora_rank" in answer.words
    lines = answer.out.splitlines()
    place = next(place for place, line in enumerate(lines) if line.startswith("optim"))
    assert "#" in lines[place]
    assert lines[place + 1].endswith("of 4 trials  lowest  (too few)")
    assert "adamw_8bit" in lines[place + 1]
    rows = ask("importance", "--csv").csv
    assert [(r["hyperparameter"], r["group"], r["trials"]) for r in rows[:2]] == [
        ("optim", "adamw_8bit", "4"),
        ("optim", "lion_8bit", "4"),
    ]


def test_importance_of_trials_that_are_all_alike_is_refused(ask: Ask, search: Search) -> None:
    for _ in range(8):
        search.add()
    answer = ask("importance")
    assert answer.code == 2
    assert "no hyperparameter differs" in answer.err


def evaluate_untuned(search: Search, loss: float) -> None:
    evaluation = UntunedEvaluation("d1", loss, None, None, 1.0, "CPU", BEGAN)
    record_untuned(search.store, search.study.id, evaluation)


def test_best_begins_with_what_the_search_was_worth(ask: Ask, search: Search) -> None:
    evaluate_untuned(search, 2.0)
    search.add(loss=1.0, hyperparameters={"learning_rate": 1e-3})
    search.add(loss=1.08)  # the usual settings
    search.add(loss=1.3, hyperparameters={"lora_rank": 8})
    words = ask("best").words
    assert words.startswith("Use trial 0: eval_loss 1.0000, untuned 2.0000 (-50 %).")
    assert "It is 0.0800 better than the usual settings (trial 1: all linear layers" in words
    assert "Second is trial 1, 0.0800 behind: a clear difference." in words
    assert "next: vram-search export best" in words
    winner = ask("best", "--json").json["winner"]
    assert winner["improvement"] == 0.5 and winner["usual"]["number"] == 1


def test_best_is_compared_with_usual_settings_that_were_stopped_early(
    ask: Ask, search: Search
) -> None:
    curves = [[Evaluation(18, 1 / 3, loss), Evaluation(54, 1.0, 1.0)] for loss in (1.5, 1.75)]
    search.add(loss=1.0, hyperparameters={"learning_rate": 1e-3}, evaluations=curves[0])
    search.add("pruned", loss=1.75, steps_done=18, evaluations=curves[1][:1])
    words = ask("best").words
    assert "The usual settings (trial 1: all linear layers, rank 16" in words
    assert "were stopped early: at 33 % of the run they were 0.2500 behind." in words


def test_difference_below_the_noise_of_seeds_is_none_in_practice(ask: Ask, search: Search) -> None:
    search.add(loss=1.0)
    search.add(loss=1.0015, hyperparameters={"lora_rank": 8})
    words = ask("best").words
    assert "Trial 1 is 0.0015 behind: no practical difference." in words
    assert "Its settings are the usual ones" in words
    assert "untuned" not in words.split("next:")[0]


def test_untuned_loss_of_other_rows_is_not_compared(ask: Ask, search: Search) -> None:
    evaluation = UntunedEvaluation("other rows", 2.0, None, None, 1.0, "CPU", BEGAN)
    record_untuned(search.store, search.study.id, evaluation)
    search.add(loss=1.0)
    assert ask("best", "--json").json["winner"]["untuned_eval_loss"] is None


def test_every_answer_judges_the_second_trial_alike(ask: Ask, search: Search) -> None:
    """0.005 is more than another seed explains, and less than the choice of evaluation rows."""
    search.add(shifts=[0, 0, 0, 0], gib=9)
    search.add(shifts=[1, -1, 1, -0.6], gib=8)
    said = "Trial 1 is 0.0050 behind: no practical difference."
    assert said in ask("best").words
    assert said in ask("top").words
    assert "make no practical difference: eval_loss is 0.0050 lower" in ask("pareto").words
    assert "show no practical difference" in ask("compare", 0, 1).words


def test_headings_of_a_narrow_table_are_explained(ask: Ask, search: Search) -> None:
    search.add()
    assert "r: lora_rank, cut: cutoff_len, bs: batch_size" in ask("top").words


@pytest.mark.parametrize("command", ["best", "top", "why 0", "compare 0 1", "pareto"])
def test_answers_fit_a_terminal_of_60_columns(
    ask: Ask, search: Search, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    for number in range(2):
        search.add(loss=1 + number / 100)
    monkeypatch.setattr("vram_search.report.wrapping.terminal_width", lambda: 60)
    monkeypatch.setattr("vram_search.report.tables.terminal_width", lambda: 60)
    lines = ask(*command.split()).out.splitlines()
    assert max(map(len, lines)) <= (76 if command == "best" else 60)  # commands are not folded


def test_further_settings_of_the_best_are_readable(ask: Ask, search: Search) -> None:
    further = {"use_rslora": True, "loraplus_lr_ratio": 8.0, "lr_scheduler_type": "linear"}
    search.add(hyperparameters={**further, "num_train_epochs": 2.0})
    words = ask("best").words
    assert "rsLoRA yes" in words and "loraplus_lr_ratio 8 " in words
    assert "lr_scheduler_type linear" in words and "num_train_epochs 2 " in words
