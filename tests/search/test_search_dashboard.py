"""optuna-dashboard on a search's database: what it reads, that it only reads, and never blocks."""

from __future__ import annotations

import http.client
import json
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIServer

import pytest
from optuna.trial import FrozenTrial

from tests.factories import PLAN
from vram_search.errors import InputError
from vram_search.search import Proposal, Search
from vram_search.search.dashboard import dashboard_server
from vram_search.store import Outcome, Store, StudyRecord, TrialRecord, TrialResult
from vram_search.units import GIB

OpenSearch = Callable[..., Search]
OptunaTrials = Callable[..., list[FrozenTrial]]
Record = Callable[..., TrialRecord]


@pytest.fixture
def record(store: Store, study: StudyRecord) -> Record:
    """Records a proposal's end, as the worker does before it tells the search."""

    def record_(proposal: Proposal, result: TrialResult) -> TrialRecord:
        point = proposal.hyperparameters.model_dump(mode="json")
        trial_id = store.start_trial(study.id, proposal.number, point, 42, "d1")
        store.record_plan(trial_id, PLAN, {"required_bytes": 20 * GIB, "excess": 0.25})
        store.finish_trial(trial_id, result)
        found = store.trial(study.id, proposal.number)
        assert found is not None
        return found

    return record_


def shown(trial: FrozenTrial) -> dict[str, Any]:
    """The trial as the dashboard's own code hands it to its page."""
    from optuna_dashboard._serializer import serialize_frozen_trial  # loads scikit-learn

    found = serialize_frozen_trial(1, trial, {})
    return {**found, "user_attrs": {one["key"]: one["value"] for one in found["user_attrs"]}}


def is_infeasible(trial: FrozenTrial) -> bool:
    """By the rule of the dashboard's page: any constraint above 0."""
    return any(value > 0 for value in shown(trial)["constraints"])


@pytest.mark.parametrize(
    ("outcome", "infeasible"),
    [("infeasible", True), ("oom", True), ("complete", False), ("pruned", False), ("lost", False)],
)
def test_dashboard_shows_what_did_not_fit_as_infeasible(
    open_search: OpenSearch, optuna_trials: OptunaTrials, outcome: Outcome, infeasible: bool
) -> None:
    search = open_search()
    loss = 1.0 if outcome == "complete" else None
    search.tell(search.ask().number, outcome, loss, 0.25)
    (told,) = optuna_trials()
    assert is_infeasible(told) is infeasible


def test_dashboard_shows_what_a_fresh_study_learnt_as_infeasible(
    open_search: OpenSearch, optuna_trials: OptunaTrials, record: Record
) -> None:
    found = record(open_search().ask(), TrialResult("infeasible"))
    open_search(revision=2).learn([found])
    (learnt,) = optuna_trials(2)
    assert is_infeasible(learnt)
    assert shown(learnt)["user_attrs"]["outcome"] == "infeasible"


def test_trial_told_after_a_crash_between_its_constraints_is_infeasible_once(
    open_search: OpenSearch, optuna_trials: OptunaTrials, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = open_search()
    number = search.ask().number
    with monkeypatch.context() as crash:
        crash.setattr("optuna.Trial.set_constraint", _fail)
        with pytest.raises(RuntimeError, match="crashed"):
            search.tell(number, "oom", None, 0.5)
    open_search().tell(number, "oom", None, 0.5)
    (told,) = optuna_trials()
    assert shown(told)["constraints"] == [0.5]
    assert set(told.constraints.values()) == {0.5}


def _fail(*_: object) -> None:
    raise RuntimeError("crashed")


def test_bytes_and_plan_are_user_attributes(
    open_search: OpenSearch, optuna_trials: OptunaTrials, record: Record
) -> None:
    search = open_search()
    proposal = search.ask()
    measured = {"required_bytes": 5 * GIB, "reserved_bytes": 6 * GIB, "allocated_bytes": 4 * GIB}
    found = record(proposal, TrialResult("complete", eval_loss=1.5, measured=measured))
    search.tell(proposal.number, "complete", 1.5, 0.0, found)
    (told,) = optuna_trials()
    point = proposal.hyperparameters
    assert told.user_attrs == {
        "outcome": "complete",
        "lora_rank": point.lora_rank,
        "lora_alpha": point.lora_alpha,
        "cutoff_len": point.cutoff_len,
        "batch_size": point.batch_size,
        "plan": "micro-batch 4 x 2, gradient checkpointing",
        "predicted_required_bytes": 20 * GIB,
        "measured_required_bytes": 5 * GIB,
        "measured_allocated_bytes": 4 * GIB,
        "measured_reserved_bytes": 6 * GIB,
    }


def test_reason_of_an_end_is_a_user_attribute(
    open_search: OpenSearch, optuna_trials: OptunaTrials, record: Record
) -> None:
    search = open_search()
    proposal = search.ask()
    found = record(proposal, TrialResult("lost", error={"stage": "train", "message": "killed"}))
    search.tell(proposal.number, "lost", None, 0.0, found)
    (told,) = optuna_trials()
    assert (told.user_attrs["outcome"], told.user_attrs["error"]) == ("lost", "killed")


@pytest.fixture
def serve(url: str) -> Iterator[Callable[[], WSGIServer]]:
    """Starts the dashboard of the test's database."""
    servers: list[WSGIServer] = []

    def start() -> WSGIServer:
        server = dashboard_server(url, 0)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def ask(
    server: WSGIServer, path: str, method: str = "GET", host: str = "localhost"
) -> tuple[int, Any]:
    """Status and answer of a request."""
    with closing(http.client.HTTPConnection("127.0.0.1", server.server_port)) as connection:
        connection.request(method, path, headers={"Host": host})
        answer = connection.getresponse()
        body = answer.read()
    return answer.status, json.loads(body) if "json" in answer.headers["Content-Type"] else body


def study_detail(server: WSGIServer) -> dict[str, Any]:
    status, studies = ask(server, "/api/studies")
    assert status == 200
    (study,) = studies["study_summaries"]
    detail: dict[str, Any]
    status, detail = ask(server, f"/api/studies/{study['study_id']}?after=0")
    assert status == 200
    return detail


def test_served_page_has_the_infeasible_trial(
    open_search: OpenSearch, serve: Callable[[], WSGIServer]
) -> None:
    search = open_search()
    search.tell(search.ask().number, "infeasible", None, 0.75)
    server = serve()
    assert server.server_address[0] == "127.0.0.1"
    status, page = ask(server, "/dashboard")
    assert status == 200 and b"<html" in page
    detail = study_detail(server)
    assert detail["objective_names"] == ["eval_loss"]
    (trial,) = detail["trials"]
    assert trial["constraints"] == [0.75]


@pytest.mark.parametrize(
    ("method", "host"),
    [("DELETE", "localhost"), ("POST", "localhost"), ("GET", "evil.example"), ("GET", "")],
)
def test_request_that_changes_or_comes_under_another_name_is_refused(
    open_search: OpenSearch, serve: Callable[[], WSGIServer], method: str, host: str
) -> None:
    open_search()
    server = serve()
    assert ask(server, "/api/studies/1", method, host)[0] == 403
    assert study_detail(server)["name"] == "demo"


def test_search_goes_on_while_the_dashboard_reads(
    open_search: OpenSearch,
    serve: Callable[[], WSGIServer],
    record: Record,
    home: Path,
) -> None:
    search = open_search()
    server = serve()
    study_detail(server)
    # A reader in the middle of its answer: an open transaction on a connection of its own.
    with closing(sqlite3.connect(home / "vram-search.db", isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM trials").fetchone()
        proposal = search.ask()
        found = record(proposal, TrialResult("complete", eval_loss=1.5))
        search.tell(proposal.number, "complete", 1.5, -0.1, found)
        assert reader.execute("SELECT count(*) FROM trials").fetchone() == (0,)
    assert study_detail(serve())["trials"][0]["values"] == [1.5]


def test_dashboard_answers_while_the_search_writes(
    open_search: OpenSearch, serve: Callable[[], WSGIServer], home: Path
) -> None:
    open_search().ask()
    server = serve()
    with closing(sqlite3.connect(home / "vram-search.db", isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("UPDATE studies SET study_name = 'unseen'")
        assert study_detail(server)["name"] == "demo"
        writer.execute("ROLLBACK")


def test_database_without_a_search_is_refused(store: Store, url: str) -> None:
    with pytest.raises(InputError, match="holds no search"):
        dashboard_server(url, 0)


def test_taken_port_is_refused(
    open_search: OpenSearch, serve: Callable[[], WSGIServer], url: str
) -> None:
    open_search()
    taken = serve().server_port
    with pytest.raises(InputError, match=f"port {taken} cannot be used"):
        dashboard_server(url, taken)
