"""The HTML report gives the answers of `best`, `pareto`, `importance` and `top`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from html import unescape
from typing import Any

import pytest
from sqlalchemy import update

from tests.report.conftest import make_study
from vram_search.answers.best import best
from vram_search.answers.importance import importance
from vram_search.answers.pareto import pareto
from vram_search.answers.top import every_trial, top
from vram_search.report.limits import Limits
from vram_search.report.page.html import render
from vram_search.report.page.report_data import ReportData, load_report_data
from vram_search.store import Store, StudyRecord, open_store, sqlite_url
from vram_search.store.tables import trials as trials_table


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    folder = tmp_path_factory.mktemp("answers")
    with (
        pytest.MonkeyPatch.context() as patched,
        closing(open_store(sqlite_url(folder / "vram-search.db"), create=True)) as store,
    ):
        patched.setenv("VRAM_SEARCH_HOME", str(folder))
        yield store


@pytest.fixture(scope="module", params=["a search", "its best run is of another kind of training"])
def study(request: pytest.FixtureRequest, database: Store) -> StudyRecord:
    made = make_study(database, request.param, trials=60)
    if request.param != "a search":
        lowest = database.top_trials(made.id, limit=1)[0]
        with database.engine.begin() as connection:
            connection.execute(
                update(trials_table)
                .where(trials_table.c.id == lowest.id)
                .values(other_training="dpo")
            )
    return made


@pytest.fixture(scope="module")
def data(database: Store, study: StudyRecord) -> ReportData:
    return load_report_data(database, study)


def test_report_has_the_best_trial_and_the_sweet_spot_of_best(
    database: Store, study: StudyRecord, data: ReportData
) -> None:
    answer = best(database, study, Limits())
    assert data.best is not None and data.sweet_spot is not None
    assert data.best.number == answer.trial.number
    assert data.sweet_spot.trial.number == answer.sweet_spot.trial.number
    within = [(item.number, item.difference) for item in answer.sweet_spot.within]
    assert [(one.trial.number, one.difference) for one in data.sweet_spot.within] == within
    assert answer.sweet_spot.why in unescape(render(data, datetime.now(UTC)))


def test_report_has_the_front_of_pareto(
    database: Store, study: StudyRecord, data: ReportData
) -> None:
    front = [trial.number for trial in pareto(database, study).trials if trial.on_front]
    assert [trial.number for trial in data.front] == front


def test_report_has_the_shares_and_medians_of_importance(
    database: Store, study: StudyRecord, data: ReportData
) -> None:
    shown = [
        (item.name, item.share, [(g.label, len(g.losses), g.median_loss) for g in item.groups])
        for item in data.importances
    ]
    answered = [
        (
            item.hyperparameter,
            item.share,
            [(g.group, g.trials, g.median_eval_loss) for g in item.groups],
        )
        for item in importance(database, study).importances
    ]
    assert shown == answered


def test_data_of_the_page_has_the_figures_of_top(
    database: Store, study: StudyRecord, data: ReportData
) -> None:
    page = render(data, datetime.now(UTC))
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    shown: list[dict[str, Any]] = json.loads(found[1])["trials"]
    answered = every_trial(database, study).as_dict()["trials"]
    assert shown == [
        {name: trial[name] or ("running" if name == "outcome" else trial[name]) for name in one}
        for one, trial in zip(shown, answered, strict=True)
    ]
    ranked = [trial.number for trial in top(database, study, rows=100).trials]
    assert [trial.number for trial in data.ranked] == ranked
