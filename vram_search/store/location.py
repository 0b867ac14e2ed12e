"""Finds the database and the folders of its studies."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from vram_search.resources import data_folder
from vram_search.store.database import sqlite_url
from vram_search.store.faults import parse_url

DATABASE_VARIABLE = "VRAM_SEARCH_DATABASE"


def database_url(chosen: str | None) -> str:
    """The URL of the chosen database (a URL or an SQLite file), else of the default one.

    The default is `$VRAM_SEARCH_DATABASE`, else `vram-search.db` in the user's data folder.
    """
    chosen = chosen or os.environ.get(DATABASE_VARIABLE) or str(data_folder() / "vram-search.db")
    return chosen if "://" in chosen else sqlite_url(Path(chosen).expanduser())


@dataclass(frozen=True)
class StudyFolder:
    """Folders of one study next to its database (in the data folder for a database server)."""

    root: Path
    study: str

    @property
    def adapters(self) -> Path:
        return self.root / "adapters" / self.study

    @property
    def exports(self) -> Path:
        return self.root / "exports" / self.study

    @property
    def log(self) -> Path:
        return self.root / "logs" / f"{self.study}.log"

    @property
    def lock(self) -> Path:
        return self.root / "locks" / f"{self.study}.lock"


def study_folder(url: str, study: str) -> StudyFolder:
    """The study's folder for a database URL.

    Raises:
        StoreError: it is no URL.
    """
    return StudyFolder(database_folder(url), study)


def database_folder(url: str) -> Path:
    """The folder beside the database file; the data folder for a database server.

    Raises:
        StoreError: it is no URL.
    """
    parsed = parse_url(url)
    is_file = parsed.get_backend_name() == "sqlite"
    return Path(str(parsed.database)).parent if is_file else data_folder()


def service_lock(url: str) -> Path:
    """The lock file that the service of a database holds while it runs.

    Raises:
        StoreError: it is no URL.
    """
    parsed = parse_url(url)
    name = Path(str(parsed.database)).name if parsed.get_backend_name() == "sqlite" else "server"
    return database_folder(url) / "locks" / f"service {name}.lock"
