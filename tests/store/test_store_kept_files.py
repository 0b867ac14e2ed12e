"""Adapters belong to their database: they move with it, and no other folder is ever deleted."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import select, update

from vram_search.errors import InputError, NotFoundError
from vram_search.store import Store, TrialResult, open_store, sqlite_url
from vram_search.store.database import reading, writing
from vram_search.store.location import StudyFolder, study_folder
from vram_search.store.tables import trials
from vram_search.worker import delete_study as deletion
from vram_search.worker.delete_study import delete_study
from vram_search.worker.queue_place import study_locked

NewTrial = Callable[[Store], int]


@contextmanager
def opened(file: Path) -> Iterator[Store]:
    with closing(open_store(sqlite_url(file), create=True)) as store:
        yield store


def finish(store: Store, adapter_path: str) -> None:
    study = store.create_study("demo", {}, "d1", {}, {})
    trial_id = store.start_trial(study.id, 0, {}, seed=1, data_hash="d1")
    result = TrialResult("complete", eval_loss=1.0, adapter_path=adapter_path)
    store.finish_trial(trial_id, result)


def adapter_of(store: Store) -> str | None:
    return store.trials(1)[0].adapter_path


def write_path(store: Store, path: str) -> None:
    """As a stranger's database holds it."""
    with writing(store.engine) as connection:
        connection.execute(update(trials).values(adapter_path=path))


def make_adapter(database: Path) -> Path:
    folder = study_folder(sqlite_url(database), "demo").adapters / "trial-0000"
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes(b"w")
    return folder


@pytest.fixture
def database(tmp_path: Path) -> Path:
    file = tmp_path / "search.db"
    with opened(file) as store:
        finish(store, str(make_adapter(file)))
    return file


def test_recorded_path_is_relative(database: Path) -> None:
    with opened(database) as store, reading(store.engine) as connection:
        recorded = connection.scalar(select(trials.c.adapter_path))
    assert recorded == "demo/adapters/trial-0000"


def test_moved_pair_keeps_its_adapter(database: Path, tmp_path: Path) -> None:
    place = tmp_path / "elsewhere"
    place.mkdir()
    for part in list(tmp_path.glob("search.db*")):
        shutil.move(part, place)
    with opened(place / "search.db") as store:
        path = adapter_of(store)
    assert path is not None
    assert Path(path, "adapter_model.safetensors").is_file()
    assert Path(path).is_relative_to(place)


def test_copy_deletes_its_own_adapter_alone(database: Path, tmp_path: Path) -> None:
    shutil.copy(database, tmp_path / "copy.db")
    shutil.copytree(tmp_path / "search.db.files", tmp_path / "copy.db.files")
    with opened(tmp_path / "copy.db") as store:
        store.delete_adapter(store.trials(1)[0])
        assert adapter_of(store) is None
    assert not (tmp_path / "copy.db.files/demo/adapters/trial-0000").exists()
    with opened(database) as store:
        path = adapter_of(store)
    assert path is not None
    assert Path(path).is_dir()


@pytest.mark.parametrize(
    "recorded", ["{tmp}/precious", "../precious", "demo/../../precious", ".", ""]
)
def test_path_out_of_the_record_never_deletes_a_foreign_folder(
    database: Path, tmp_path: Path, recorded: str
) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    with opened(database) as store:
        write_path(store, recorded.format(tmp=tmp_path))
        store.delete_adapter(store.trials(1)[0])
        assert adapter_of(store) is None
    assert precious.is_dir()
    assert (tmp_path / "search.db.files").is_dir()


def test_link_inside_the_folder_is_not_followed(database: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious" / "trial-0000"
    precious.mkdir(parents=True)
    adapters = tmp_path / "search.db.files/demo/adapters"
    shutil.rmtree(adapters)
    adapters.symlink_to(precious.parent)
    with opened(database) as store:
        store.delete_adapter(store.trials(1)[0])
    assert precious.is_dir()


def test_absolute_path_of_an_older_version_is_read_as_it_is(database: Path, tmp_path: Path) -> None:
    with opened(database) as store:
        write_path(store, str(tmp_path / "adapters" / "demo" / "trial-0000"))
        assert adapter_of(store) == str(tmp_path / "adapters" / "demo" / "trial-0000")


@pytest.mark.parametrize("path", ["demo", "demo/exports", "demo/exports/mine", "other/trial-0000"])
def test_path_in_the_record_deletes_no_more_than_one_trials_folder(
    database: Path, path: str
) -> None:
    precious = database.with_name("search.db.files") / path / "mine.yaml"
    precious.parent.mkdir(parents=True, exist_ok=True)
    precious.write_text("export")
    with opened(database) as store:
        write_path(store, path)
        store.delete_adapter(store.trials(1)[0])
        assert adapter_of(store) is None
    assert precious.is_file()


@pytest.mark.parametrize("part", [".", "adapters", "checkpoints", "products", "logs", "exports"])
def test_link_out_of_the_databases_folder_is_refused(tmp_path: Path, part: str) -> None:
    victim = tmp_path / "victim"
    (victim / "adapters" / "trial-0000").mkdir(parents=True)
    folder = study_folder(sqlite_url(tmp_path / "search.db"), "demo")
    link = folder.path / part
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(victim, target_is_directory=True)
    with pytest.raises(InputError, match="leads out of"), study_locked(folder):
        pass
    assert (victim / "adapters" / "trial-0000").is_dir()


def test_folder_of_files_itself_may_be_a_link_to_a_larger_disk(tmp_path: Path) -> None:
    (tmp_path / "large").mkdir()
    (tmp_path / "search.db.files").symlink_to(tmp_path / "large", target_is_directory=True)
    with study_locked(study_folder(sqlite_url(tmp_path / "search.db"), "demo")):
        assert (tmp_path / "large" / "demo" / "run.lock").is_file()


def test_study_that_two_pages_delete_is_deleted_once(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, locked = sqlite_url(database), study_locked

    @contextmanager
    def locked_after_another(folder: StudyFolder) -> Iterator[None]:
        monkeypatch.setattr(deletion, "study_locked", locked)
        with opened(database) as other:
            delete_study(other, url, "demo")
        with locked(folder):
            yield

    monkeypatch.setattr(deletion, "study_locked", locked_after_another)
    with opened(database) as store, pytest.raises(NotFoundError, match="no study 'demo'"):
        delete_study(store, url, "demo")


def test_deleting_a_study_deletes_its_trials_alone(database: Path) -> None:
    folder = study_folder(sqlite_url(database), "demo")
    other = folder.root / "other" / "adapters" / "trial-0000"
    for place in (other, folder.exports, folder.checkpoints / "trial-0001"):
        place.mkdir(parents=True)
    with opened(database) as store:
        delete_study(store, sqlite_url(database), "demo")
    assert other.is_dir()
    assert folder.exports.is_dir()
    assert not folder.adapters.exists()
    assert not folder.checkpoints.exists()
