"""A database of a short search: five trials in the record and in Optuna's tables, with adapters."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path

import pytest

from tests.factories import make_space
from vram_search.search import STRATEGIES, Problem, Search, open_storage
from vram_search.store import Outcome, TrialResult, open_store, sqlite_url
from vram_search.store.location import study_folder

SPACE = make_space(optim=["adamw_8bit", "lion_8bit"], lora_rank=[8, 16, 32], lora_alpha=[16])
OUTCOMES: tuple[Outcome, ...] = ("complete", "pruned", "complete", "oom", "lost")
SPEC = {
    "search_space": SPACE.model_dump(mode="json"),
    "training": {"lora_alpha_ratio": 2, "rungs": [0.5]},
    "seed": 7,
}


@pytest.fixture(scope="session")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The database that each test copies."""
    file = tmp_path_factory.mktemp("searched") / "search.db"
    url = sqlite_url(file)
    folder = study_folder(url, "demo").adapters
    with closing(open_store(url, create=True)) as store, open_storage(url) as storage:
        study = store.create_study("demo", SPEC, "d1", {"name": "card"}, {"name": "model"})
        search = Search(storage, "demo", 1, Problem(SPACE, (0.5,)), STRATEGIES["random"], 7)
        for outcome in OUTCOMES:
            proposal = search.ask()
            point = proposal.hyperparameters.model_dump(mode="json")
            trial = store.start_trial(study.id, proposal.number, point, seed=7, data_hash="d1")
            store.record_plan(trial, {}, {"excess": -0.25})
            adapter = folder / f"trial-{proposal.number:04d}"
            loss = 2.0 - proposal.number / 10 if outcome == "complete" else None
            if loss is not None:
                adapter.mkdir(parents=True)
                (adapter / "adapter_model.safetensors").write_bytes(b"x" * 100)
            kept = str(adapter) if loss is not None else None
            store.finish_trial(trial, TrialResult(outcome, eval_loss=loss, adapter_path=kept))
            record = store.trial(study.id, proposal.number)
            search.tell(proposal.number, outcome, loss, -0.25, record)
    return file


@pytest.fixture
def database(searched: Path, tmp_path: Path) -> Path:
    """A copy of the database with its files."""
    file = tmp_path / "search.db"
    shutil.copyfile(searched, file)
    shutil.copytree(f"{searched}.files", f"{file}.files")
    return file
