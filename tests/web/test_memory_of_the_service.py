"""The service's memory does not grow with the number of its requests."""

from __future__ import annotations

import asyncio
import gc
import sys
import weakref
from unittest.mock import Mock

import pytest
from fastapi import APIRouter, FastAPI
from httpx import ASGITransport, AsyncClient

from tests.report.conftest import make_study
from vram_search.report.figures import by_value
from vram_search.store import Store
from vram_search.web import free_memory
from vram_search.web.one_at_a_time import OneAtATime
from vram_search.web.trial_selection import select_trials


def test_requests_that_read_a_whole_study_are_answered_one_after_the_other() -> None:
    answering, most = 0, 0
    app, whole, other = FastAPI(), APIRouter(route_class=OneAtATime), APIRouter()

    @whole.get("/whole")
    async def read_whole() -> None:
        nonlocal answering, most
        answering += 1
        most = max(most, answering)
        for _ in range(5):
            await asyncio.sleep(0)
        answering -= 1

    @other.get("/other")
    async def read_other() -> bool:
        return bool(app.state.whole_study.locked())

    app.include_router(whole)
    app.include_router(other)

    async def ask() -> list[bool]:
        app.state.whole_study = asyncio.Lock()
        async with AsyncClient(transport=ASGITransport(app), base_url="http://test") as client:
            paths = ["/whole"] * 3 + ["/other"]
            answers = await asyncio.gather(*(client.get(path) for path in paths))
        return [answer.json() for answer in answers if answer.url.path == "/other"]

    assert asyncio.run(ask()) == [True], "a request to another route waits for none of them"
    assert most == 1


class Ring:
    """An object that refers to itself."""

    def __init__(self) -> None:
        self.itself = self


def test_memory_is_freed_every_few_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    glibc = Mock()
    monkeypatch.setattr(free_memory, "FREE_SECONDS", 0.0)
    monkeypatch.setattr(free_memory, "_find_glibc", lambda: glibc)
    monkeypatch.setattr(gc, "freeze", Mock())  # the tests' process goes on

    async def run() -> weakref.ref[Ring]:
        task = asyncio.create_task(free_memory.give_back_memory())
        await asyncio.sleep(0)
        ring = weakref.ref(Ring())
        while glibc.malloc_trim.call_count < 2:
            await asyncio.sleep(0)
        task.cancel()
        return ring

    assert asyncio.run(run())() is None
    assert glibc.malloc_trim.call_args.args == (0,)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's functions")
def test_glibc_has_the_functions() -> None:
    glibc = free_memory._find_glibc()
    assert glibc is not None and glibc.malloc_trim(0) in (0, 1)
    assert glibc.mallopt(free_memory.M_MMAP_THRESHOLD, free_memory.LARGE_BYTES) == 1


def test_trials_of_a_page_are_read_completely_and_the_others_in_part(store: Store) -> None:
    study = make_study(store, trials=12)
    every = store.trials(study.id)
    found = select_trials(store, study, order="eval_loss", offset=3, limit=4)
    assert found.trials == sorted(every, key=by_value)[3:7] and found.count == 12
    assert [trial.number for trial in found.study_trials] == list(range(12))
    assert all(trial.predicted is trial.measured is None for trial in found.study_trials)
    assert select_trials(store, study, offset=12, limit=4).trials == []
    newest = select_trials(store, study, outcomes=["complete"], order="newest", limit=2)
    complete = [trial for trial in every if trial.outcome == "complete"]
    assert newest.trials == complete[:-3:-1] and newest.count == len(complete)
