"""`vram-search report`: what the file holds, and that nothing from the database can act in it."""

from __future__ import annotations

import json
import random
import re
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Callable
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import yaml
from sqlalchemy import event, update

from tests.report.conftest import draw
from vram_search.estimate.calibration import Calibration, save_calibration
from vram_search.report.page.byte_charts import measured_parts, memory_chart
from vram_search.report.page.curve_charts import MOST_CURVES, eval_curves_chart
from vram_search.report.page.history_chart import history_chart
from vram_search.report.page.html import charts, render
from vram_search.report.page.loss_charts import vram_chart
from vram_search.report.page.report_data import ReportData, load_report_data
from vram_search.report.page.trials_table import columns, trial_row
from vram_search.spec.hyperparameters import MAIN
from vram_search.store import (
    Evaluation,
    Store,
    StudyRecord,
    TrialResult,
    open_store,
    sqlite_url,
)
from vram_search.store.tables import trials as trials_table
from vram_search.store.untuned import (
    Sample,
    UntunedEvaluation,
    record_samples,
    record_untuned,
)
from vram_search.units import GIB, MIB

Cli = Callable[..., subprocess.CompletedProcess[str]]
Make = Callable[..., StudyRecord]
HOSTILE = "</script><img src=x onerror=alert(1)>\"'&<b>"
NOW = datetime(2026, 1, 2, tzinfo=UTC)
VOID = {"meta", "link", "input", "br", "img"}


class Page(HTMLParser):
    """Elements and attributes of a page; fails on a tag that is closed out of turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def having(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]


def data_of(text: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found
    data: dict[str, Any] = json.loads(found[1])
    return data


def test_report_reads_the_losses_of_many_trials_in_as_many_queries_as_of_few(
    database: Store, studies: Make
) -> None:
    asked: list[str] = []
    event.listen(database.engine, "before_cursor_execute", lambda *call: asked.append(call[2]))
    counts = []
    for trials in (20, 40):
        study = studies(database, name=f"of {trials}", trials=trials)
        asked.clear()
        night = load_report_data(database, study)
        assert night.sweet_spot is not None
        counts.append(len([query for query in asked if "evaluations" in query]))
    assert counts == [2, 2]


def test_report_has_every_chart_and_every_trial(night: ReportData) -> None:
    text = render(night, NOW)
    page = Page(text)
    keys = {str(attributes["id"]) for attributes in page.having("figure")}
    assert keys >= {
        "chart-vram",
        "chart-history",
        "chart-memory",
        "chart-prediction",
        "chart-importance",
        "chart-slice-learning_rate",
        "chart-eval-curves",
        "chart-train-curves",
        "chart-time",
    }
    rows = [a for a in page.having("tr") if str(a.get("id", "")).startswith("trial-")]
    assert len(rows) == len(data_of(text)["trials"]) == 40


def test_report_names_best_and_sweet_spot(night: ReportData) -> None:
    assert night.sweet_spot is not None
    text = render(night, NOW)
    assert f"{night.sweet_spot.best.eval_loss:.4f}" in text
    assert f"trial {night.sweet_spot.trial.number} (" in text


def test_report_asks_for_nothing_from_elsewhere(night: ReportData) -> None:
    text = render(night, NOW)
    addresses = re.findall(r"""(?:src|href)=["']([^"']*)""", text)
    assert [a for a in addresses if not a.startswith(("#", "data:,"))] == []
    assert "http" not in text.replace("http-equiv", "")
    assert "@import" not in text and "url(" not in text.replace("url(#", "")


def test_names_from_the_database_are_text(database: Store, studies: Make) -> None:
    model = {"name": HOSTILE, "parameters": 1000}
    study = studies(database, HOSTILE, trials=12, model=model, data_hash=HOSTILE)
    hyperparameters = {"optim": HOSTILE, HOSTILE: 3, "lora_target": HOSTILE}
    trial = database.start_trial(study.id, 99, hyperparameters, seed=1, data_hash="d")
    error = {"stage": HOSTILE, "message": HOSTILE}
    measured = {"parts": {HOSTILE: 5}}
    result = TrialResult(
        "complete", eval_loss=0.1, error=error, measured=measured, seconds={HOSTILE: 9.0}
    )
    database.finish_trial(trial, result)
    text = render(load_report_data(database, study), NOW)
    page = Page(text)
    assert page.having("img") == [] and page.having("b") == []
    assert len(page.having("script")) == 2
    assert not any("onerror" in attributes for _, attributes in page.tags)
    assert HOSTILE in page.text
    assert data_of(text)["study"] == HOSTILE
    for chart in (
        c for section in charts(load_report_data(database, study)).values() for c in section
    ):
        ET.fromstring(chart.document())


def test_study_without_trials_has_a_report(
    vram_search: Cli, database: Store, tmp_path: Path
) -> None:
    study = database.create_study("empty", {}, "d", {}, {})
    Page(render(load_report_data(database, study), NOW))
    done = vram_search("report", "empty", "-o", tmp_path / "new folder" / "report.html")
    assert done.returncode == 0, done.stdout


def test_running_and_imported_trials_are_shown_with_what_is_known(database: Store) -> None:
    study = database.create_study("partial", {}, "d", {"title": "a card"}, {"name": "a model"})
    database.start_trial(study.id, 0, {}, seed=1, data_hash="d")
    imported = database.start_trial(study.id, 1, {"lora_rank": 8}, seed=1, data_hash="d")
    database.finish_trial(imported, TrialResult("complete", eval_loss=1.5))
    lossless = database.start_trial(study.id, 2, {"lora_rank": None}, seed=1, data_hash="d")
    database.finish_trial(lossless, TrialResult("complete"))
    text = render(load_report_data(database, study), NOW)
    page = Page(text)
    outcomes = [a["data-outcome"] for a in page.having("tr") if "data-outcome" in a]
    assert outcomes == ["complete", "running", "complete"]  # the lowest eval_loss first
    assert "? r8 a?, cutoff ?, batch ?, lr ?, ?; VRAM unknown" in text


def test_each_hyperparameter_may_be_unknown_in_some_imported_runs(database: Store) -> None:
    study = database.create_study("partial", {}, "d", {"title": "a card"}, {"name": "a model"})
    dice = random.Random(1)
    names = list(draw(dice))
    for number in range(4 * len(names)):
        point = draw(dice)
        if number < len(names):
            point[names[number]] = None
        run = database.start_trial(study.id, number, point, seed=1, data_hash="d")
        database.finish_trial(run, TrialResult("complete", eval_loss=1 + dice.random()))
    data = load_report_data(database, study)
    assert {item.name for item in data.importances} == {*names} - {"lora_alpha"}
    Page(render(data, NOW))


def test_best_trial_whose_end_is_not_known_is_left_out_of_the_history(
    database: Store, studies: Make
) -> None:
    study = studies(database)
    best = load_report_data(database, study).best
    assert best is not None
    forget = update(trials_table).where(trials_table.c.number == best.number)
    with database.engine.begin() as connection:
        connection.execute(forget.values(finished_at=None))
    data = load_report_data(database, study)
    assert data.best is not None and data.best.number == best.number
    Page(render(data, NOW))


def test_trial_that_was_begun_again_is_told_so(database: Store, studies: Make) -> None:
    study = studies(database, trials=3)
    stopped = database.start_trial(study.id, 3, {}, seed=1, data_hash="d1")
    database.finish_trial(stopped, TrialResult("pruned", error={"message": "stopped at a rung"}))
    database.start_trial(study.id, 4, {}, seed=1, data_hash="d1", retry_of=3)
    page = render(load_report_data(database, study), NOW)
    assert "restarted: trial 3 was stopped too early" in page


def test_imported_runs_are_told_by_name_and_drawn_by_their_models(
    vram_search: Cli, home: Path, tmp_path: Path
) -> None:
    (tmp_path / "runs.csv").write_text(
        "run,outcome,model_name_or_path,eval_loss\n"
        "<small>,complete,Qwen/Qwen2.5-1.5B-Instruct,0.9\n"
        "worse,complete,Qwen/Qwen2.5-1.5B-Instruct,0.95\n"
        "large,complete,Qwen/Qwen2.5-3B-Instruct,1.0\n"
        "died,oom,Qwen/Qwen2-7B-Instruct,\n"
    )
    assert vram_search("import", tmp_path / "runs.csv").returncode == 0
    store = open_store(sqlite_url(home / "vram-search.db"), create=False)
    (study,) = store.studies()
    night = load_report_data(store, study)
    store.close()
    text = render(night, NOW)
    page = Page(text)
    assert {"<small>", "worse", "large", "died", "Qwen/Qwen2-7B-Instruct"} <= set(page.text)
    assert page.having("small") == []
    chart = charts(night)["models"][0]
    named = re.findall(r"class='halo strong[^>]*>([^<]*)<", chart.body)
    assert sorted(named) == ["&lt;small&gt;", "large"]
    assert ">1.54B</text>" in chart.body and ">3.09B</text>" in chart.body
    assert "<dt>imported</dt>" in text and "<dt>from, to</dt>" not in text


def test_evaluation_of_an_unknown_step_is_no_point_of_a_learning_curve(database: Store) -> None:
    study = database.create_study("partial", {}, "d", {"title": "a card"}, {"name": "a model"})
    for number, fraction in enumerate((0.0, 1.0)):
        trial = database.start_trial(study.id, number, {"lora_rank": 8}, seed=1, data_hash="d")
        result = TrialResult("complete", eval_loss=1.5, evaluations=[Evaluation(0, fraction, 1.5)])
        database.finish_trial(trial, result)
    assert "1 trial, evaluated" in eval_curves_chart(load_report_data(database, study)).summary


def test_legend_names_the_best_trial_only_where_it_is_drawn(database: Store) -> None:
    """An imported run may be the best and have neither a step nor bytes."""
    study = database.create_study("partial", {}, "d", {"title": "a card"}, {"name": "a model"})
    for number, loss in enumerate((1.0, 1.5)):
        trial = database.start_trial(study.id, number, {"lora_rank": 8}, seed=1, data_hash="d")
        if number:
            database.record_plan(trial, {}, {"required_bytes": GIB})
        evaluations = [Evaluation(9 * number, float(number), loss)]
        database.finish_trial(
            trial, TrialResult("complete", eval_loss=loss, evaluations=evaluations)
        )
    night = load_report_data(database, study)
    assert night.best is not None and night.best.number == 0
    for chart in (eval_curves_chart(night), vram_chart(night)):
        assert not any("(best" in words for _, words in chart.legend)


def test_measured_parts_stand_beside_predicted_ones(night: ReportData) -> None:
    chart = memory_chart(night)
    best = night.best
    assert best is not None
    assert f"trial {best.number} (best" in chart.body
    assert "measured:" in chart.body and "predicted:" in chart.body
    parts = measured_parts(best)
    assert best.measured is not None
    assert sum(parts.values()) == best.measured["process_bytes"]


def test_free_bytes_below_the_limit_are_drawn(night: ReportData) -> None:
    assert ">free " in memory_chart(night).body


def test_trial_that_never_ran_has_no_time(night: ReportData) -> None:
    trial = next(trial for trial in night.trials if trial.outcome == "infeasible")
    names = [column.name for column in columns(MAIN, is_imported=False)]
    cells = trial_row(trial, is_imported=False)["cells"]
    assert cells[names.index("time")].value is None


def test_study_that_ran_without_a_gpu_says_so(database: Store, studies: Make) -> None:
    study = studies(database, trials=12, with_gpu=False)
    text = render(load_report_data(database, study), NOW)
    assert "No bytes were measured" in text
    assert "measured:" not in memory_chart(load_report_data(database, study)).body


def test_other_studies_of_the_database_are_drawn_by_model_size(
    database: Store, studies: Make
) -> None:
    for name, parameters in (("small", 135_000_000), ("large", 7_600_000_000)):
        studies(database, name, model={"name": name, "parameters": parameters})
    studies(database, "elsewhere", model={"name": "other", "parameters": 9}, data_hash="other rows")
    chart = charts(load_report_data(database, studies(database)))["models"][0]
    for words in ("small", "large", "td-010", "7.6B parameters"):
        assert words in chart.body
    assert "elsewhere" not in chart.body


def test_model_size_of_one_model_or_of_other_rows_is_not_drawn(
    database: Store, studies: Make
) -> None:
    studies(database, "elsewhere", model={"name": "other", "parameters": 9}, data_hash="other rows")
    study = studies(database, model={"name": "small", "parameters": 134_515_008})
    assert charts(load_report_data(database, study))["models"][0].is_empty


def test_limit_before_any_plan_is_the_one_that_the_next_plan_is_judged_by(database: Store) -> None:
    card = {"name": "mine", "total_bytes": 16 * GIB, "reserve_bytes": GIB, "context_bytes": MIB}
    study = database.create_study("light", {}, "d", card, {"name": "a model"})
    assert load_report_data(database, study).limit_bytes == 15 * GIB - MIB
    save_calibration(
        Calibration(
            measured_at="2026-03-01T00:00:00+00:00",
            card_name="mine",
            total_bytes=16 * GIB,
            driver="580.1",
            versions={},
            context_bytes=700 * MIB,
            padded_context_bytes=700 * MIB,
            context_source="process",
            cublas_workspace_bytes=MIB,
            cublaslt_workspace_bytes=MIB,
            allocator="as expected",
            measured_over_predicted=1.0,
        )
    )
    assert load_report_data(database, study).limit_bytes == 15 * GIB - 700 * MIB


def test_limit_far_beyond_the_trials_is_named_above_their_marks(database: Store) -> None:
    card = {"name": "mine", "total_bytes": 16 * GIB, "reserve_bytes": 0, "context_bytes": 0}
    study = database.create_study("light", {}, "d", card, {"name": "a model"})
    for number, loss in enumerate((1.0, 2.0)):
        trial = database.start_trial(study.id, number, {"lora_rank": 8}, seed=1, data_hash="d")
        database.record_plan(trial, {}, {"required_bytes": GIB + number})
        database.finish_trial(trial, TrialResult("complete", eval_loss=loss))
    (_, chart) = charts(load_report_data(database, study))["results"]
    (height,) = re.findall(
        r"<text [^>]*y='([\d.]+)'[^>]*>limit 16.00 GiB \(further right\)<", chart.body
    )
    marks = re.findall(r"cy='([\d.]+)'", chart.body)
    assert marks and float(height) < min(float(mark) for mark in marks) - 10


def test_times_are_tabulated_for_every_phase_that_is_drawn(database: Store) -> None:
    study = database.create_study("one", {}, "d", {}, {})
    trial = database.start_trial(study.id, 0, {}, seed=1, data_hash="d")
    seconds = {"train": 60.0, "between": 2.0, "plan": 1.0}
    database.finish_trial(trial, TrialResult("complete", eval_loss=1.0, seconds=seconds))
    night = load_report_data(database, study)
    legend = [words for _, words in charts(night)["time"][0].legend]
    assert legend == ["plan", "train", "waiting"]
    headings = re.findall(r'<th scope="col"(?: class="number")?>([a-z]+)</th>', render(night, NOW))
    assert headings[:4] == ["outcome", *legend]


def test_unknown_study_is_one_message(vram_search: Cli, database: Store, studies: Make) -> None:
    studies(database, trials=3)
    done = vram_search("report", "nonsense")
    assert done.returncode == 2
    assert "no study 'nonsense'" in done.stdout and "td-010" in done.stdout


def test_study_is_named_as_in_other_commands_too(
    vram_search: Cli, database: Store, studies: Make, tmp_path: Path
) -> None:
    for name in ("first", "second"):
        studies(database, name, trials=3)
    done = vram_search("report", "--study", "first", "-o", tmp_path / "r.html")
    assert done.returncode == 0, done.stdout
    assert "<h1>first</h1>" in (tmp_path / "r.html").read_text(encoding="utf-8")
    done = vram_search("report", "first", "--study", "second", "-o", tmp_path / "r.html")
    assert done.returncode == 2 and "two studies are named" in done.stdout


def test_report_that_cannot_be_written_is_one_message(
    vram_search: Cli, database: Store, studies: Make, tmp_path: Path
) -> None:
    studies(database, trials=3)
    (tmp_path / "file").write_text("")
    done = vram_search("report", "-o", tmp_path / "file" / "report.html")
    assert done.returncode == 2
    assert "cannot be written" in done.stdout and "Traceback" not in done.stdout


def test_report_begins_with_the_trial_to_use_and_what_it_was_worth(
    database: Store, studies: Make
) -> None:
    study = studies(database, trials=30)
    evaluation = UntunedEvaluation(study.data_hash, 2.31, None, None, 1.0, "a card", NOW)
    record_untuned(database, study.id, evaluation)
    best = database.top_trials(study.id, 1)[0]
    record_samples(database, best.id, [Sample("<b>Why?</b>", None, "No idea.", "Because.")])
    data = load_report_data(database, study)
    text = render(data, NOW)
    page = Page(text)
    assert f"Use trial {best.number}" in page.text
    words = " ".join(page.text)
    assert "2.3100 (-" in words and f"vram-search export {best.number} --study td-010" in words
    assert {"<b>Why?</b>", "No idea.", "Because."} <= set(page.text)
    copied = [a["data-copy"] for a in page.having("button") if "data-copy" in a]
    settings = yaml.safe_load(str(copied[1]))
    assert settings["lora_rank"] == best.hyperparameters["lora_rank"]
    assert "batch_size" not in settings
    rows = [a for a in page.having("tr") if str(a.get("id", "")).startswith("trial-")]
    assert rows[0]["id"] == f"trial-{best.number}" and rows[0]["class"] == "best"
    assert "untuned model 2.3100" in history_chart(data).body


def test_history_shows_the_best_so_far_and_leaves_out_pauses(
    database: Store, studies: Make
) -> None:
    data = load_report_data(database, studies(database, trials=30))
    chart = history_chart(data)
    assert f"the best is {data.best.eval_loss:.4f}" in chart.summary  # type: ignore[union-attr]
    assert "hours of searching" in chart.body
    assert f"data-trial='{data.best.number}'" in chart.body  # type: ignore[union-attr]


def test_of_many_curves_the_best_are_drawn(database: Store, studies: Make) -> None:
    data = load_report_data(database, studies(database, trials=100))
    chart = eval_curves_chart(data)
    assert chart.body.count("class='curve s") == MOST_CURVES - 1  # the best of all is drawn bold
    assert "Drawn are the best 20" in chart.caption
