"""The surrogate's small matrices and BLAS's threads."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from vram_search.search import Search
from vram_search.search.gp.acquisition import Acquisition


def blas_threads() -> set[int]:
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


@pytest.mark.parametrize("question", ["__init__", "propose", "should_continue"])
def test_advice_is_computed_on_one_thread_whatever_it_was_before(
    question: str, open_search: Callable[..., Search], monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[set[int]] = []
    plain = getattr(Acquisition, question)

    def noted(self: Acquisition, *arguments: object) -> object:
        threads.append(blas_threads())
        return plain(self, *arguments)

    monkeypatch.setattr(Acquisition, question, noted)
    with threadpool_limits(2, user_api="blas"):
        search = open_search()
        search.should_prune(search.ask().number, 1 / 9, 1.5)
        assert blas_threads() == {2}

    assert threads == [{1}]
