"""Finds the database and the folders of its studies."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import URL

from vram_search.resources import data_folder, expanded
from vram_search.spec.name_rule import is_valid_name
from vram_search.store.database import sqlite_url
from vram_search.store.faults import parse_url

DATABASE_VARIABLE = "VRAM_SEARCH_DATABASE"
_THIS_MACHINE = ("localhost", "127.0.0.1", "::1", "")
_SEARCH_PATH = re.compile(r"search_path\s*=\s*([^\s]+)")
_UNUSUAL = re.compile(r"[^A-Za-z0-9._-]|^\.")
# https://learn.microsoft.com/en-us/windows/win32/fileio/naming-a-file
_RESERVED = re.compile(r"con|prn|aux|nul|com[0-9]|lpt[0-9]", re.IGNORECASE)


def database_url(chosen: str | None) -> str:
    """The URL of the chosen database (a URL or an SQLite file), else of the default one.

    The default is `$VRAM_SEARCH_DATABASE`, else `vram-search.db` in the user's data folder.

    Raises:
        InputError: a home folder in it is not known.
    """
    chosen = chosen or os.environ.get(DATABASE_VARIABLE) or str(data_folder() / "vram-search.db")
    if "://" not in chosen:
        return sqlite_url(expanded(chosen))
    # libpq and hosts of databases write the short form too; SQLAlchemy does not know it.
    return re.sub(r"^postgres(?=[:+])", "postgresql", chosen)


@dataclass(frozen=True)
class StudyFolder:
    """Folders of one study in the folder of its database.

    Args:
        root: the database's folder (`files_folder`).
        study: the study's name.
    """

    root: Path
    study: str

    @property
    def path(self) -> Path:
        return self.root / folder_name(self.study)

    @property
    def adapters(self) -> Path:
        return self.path / "adapters"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def products(self) -> Path:
        return self.path / "products"

    @property
    def exports(self) -> Path:
        return self.path / "exports"

    @property
    def verify(self) -> Path:
        return self.path / "verify"

    @property
    def log(self) -> Path:
        return self.path / "training.log"

    def worker_lock(self, worker_id: int) -> Path:
        """The file that a worker locks while it lives."""
        return self.path / "workers" / f"{worker_id}.lock"

    def worker_log(self, worker_id: int) -> Path:
        """Standard error of the training processes of one of several workers."""
        return self.path / f"training.worker-{worker_id}.log"

    @property
    def logs(self) -> Path:
        """Logs of the runs; `log` is the standard error of the training processes."""
        return self.path / "logs"

    @property
    def lock(self) -> Path:
        return self.path / "run.lock"


def study_folder(url: str, study: str) -> StudyFolder:
    """The study's folder for a database URL.

    Raises:
        StoreError: it is no URL.
    """
    return StudyFolder(files_folder(url), study)


def files_folder(url: URL | str) -> Path:
    """The folder of everything that belongs to a database and is not in it.

    `search.db` has `search.db.files` beside it, whatever links lead to it: both are moved and
    copied as a pair. A database server has a folder in the data folder, by host, port, name and
    schema; all names of this machine are one host.

    Raises:
        StoreError: it is no URL.
    """
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite":
        file = Path(str(parsed.database)).resolve()
        return file.with_name(f"{file.name}.files")
    folder = data_folder() / f"{folder_name(_server_name(parsed))}.files"
    earlier = data_folder() / f"{folder_name(_earlier_server_name(parsed))}.files"
    return earlier if earlier.is_dir() and not folder.is_dir() else folder


def _server_name(url: URL) -> str:
    """A name that all spellings of a URL share, and no other schema of the database."""
    query = {
        key: value if isinstance(value, str) else ",".join(value)
        for key, value in url.query.items()
    }
    host = (url.host or query.get("host") or "").lower().rstrip(".")
    if host in _THIS_MACHINE or host.startswith("/"):
        host = "localhost"
    port = url.port or query.get("port") or 5432
    database = url.database or query.get("dbname") or ""
    schema = _SEARCH_PATH.search(query.get("options", ""))
    return f"{database}@{host}:{port}" + (f"#{schema[1]}" if schema else "")


def _earlier_server_name(url: URL) -> str:
    """The name that older versions gave; a folder that has it is used on."""
    host = str(url.host or url.query.get("host") or "localhost")
    return f"{url.database or ''}@{host}:{url.port or 5432}"


def folder_name(name: str) -> str:
    """A folder's name for a study, the same for no other on any file system.

    Names with capitals, which some file systems do not tell from small letters, and names that a
    folder must not have (`con`, `..`, `a/b` of a foreign database) get a suffix from their hash.
    """
    plain = _UNUSUAL.sub("_", name)
    is_safe = bool(name) and plain == name == name.lower() and not name.endswith(".")
    if is_safe and not _RESERVED.fullmatch(name.partition(".")[0]):
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{plain[:100].rstrip('.')}~{digest[:8]}"


def file_name(study: str) -> str:
    """A study's name as the beginning of a file's name. A foreign database may call it `../x`."""
    return study if is_valid_name(study) else folder_name(study)


def queue_folder(url: str) -> Path:
    """The folder of the service's study files and of their output; no study has this folder.

    Raises:
        StoreError: it is no URL.
    """
    return files_folder(url) / ".queue"


def service_lock(url: str) -> Path:
    """The lock file that the service of a database holds while it runs.

    Raises:
        StoreError: it is no URL.
    """
    return files_folder(url) / ".service.lock"


def trial_folder(number: int) -> str:
    """Returns the name of a trial's folder among the adapters, and among the checkpoints."""
    return f"trial-{number:04d}"


def bytes_in(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
