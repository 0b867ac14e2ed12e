"""A study at its first trial, on a card of 10 GiB; the test brings its training process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from optuna.storages import InMemoryStorage

from tests.factories import FakeListener
from vram_search.data import load_rows
from vram_search.estimate.margin import margin_for
from vram_search.gpu import GpuReader
from vram_search.resources import shipped
from vram_search.search import STRATEGIES, Problem, Search, Strategy
from vram_search.spec import StudySpec, load_shape
from vram_search.spec.card_memory import CardMemory
from vram_search.store import open_store, sqlite_url
from vram_search.units import GIB
from vram_search.worker.budget import Budget
from vram_search.worker.context import RunContext
from vram_search.worker.lease import leased
from vram_search.worker.open_study import open_study
from vram_search.worker.prepare import Prepared

CARD_BYTES = 10 * GIB
MODEL = shipped("configs", "models", "smollm2-135m")


@pytest.fixture
def make_context(tmp_path: Path) -> Iterator[Callable[..., RunContext]]:
    """`make_context(trainer, reader)`; the store is real, Optuna's storage is in memory."""
    opened, storage = ExitStack(), InMemoryStorage()

    def make(
        trainer: Any,
        reader: GpuReader | None = None,
        card: CardMemory | None = None,
        strategy: Strategy = STRATEGIES["gp"],
    ) -> RunContext:
        (tmp_path / "rows.jsonl").write_text('{"instruction": "a", "output": "b"}\n' * 12)
        written = {
            "study": "demo",
            "model": {"weights": "random", "shape": "smollm2-135m"},
            "dataset": {"train": "rows.jsonl", "val_size": 4},
            "card": {"name": "toy", "total_bytes": CARD_BYTES},
            "search_space": {"cutoff_len": 2048, "batch_size": 16},
            "budget": {"trials": 1},
        }
        spec = StudySpec.model_validate(written, context={"folder": tmp_path})
        shape, rows = load_shape(MODEL), load_rows(spec.dataset, spec.seed)
        prepared = Prepared(spec, rows, shape, str(MODEL), tokenizer=None)
        store = open_store(sqlite_url(tmp_path / "search.db"), create=True)
        record = open_study(store, prepared, accept_changes=False)
        opened.enter_context(closing(store))
        search = Search(storage, "demo", 1, Problem(spec.search_space), strategy, 1)
        return RunContext(
            prepared=prepared,
            store=store,
            record=record,
            search=search,
            trainer=trainer,
            listener=FakeListener(),
            budget=Budget(CARD_BYTES, CARD_BYTES, CardMemory(CARD_BYTES), reader),
            margin=margin_for(shape),
            adapters=tmp_path / "adapters",
            pins=spec.plan,
            lease=opened.enter_context(leased(store, record)),
        )

    with opened:
        yield make
