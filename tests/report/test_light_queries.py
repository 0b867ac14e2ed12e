"""Questions about a study load only what they need: they must answer in a quarter of a second."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable

from vram_search.store import Store, StudyRecord

ASK = """
import json, sys
from vram_search.cli.main import main
codes = []
for question in json.loads(sys.argv.pop()):
    sys.argv[1:] = question
    try:
        main()
    except SystemExit as end:
        codes.append(end.code)
print(json.dumps({"codes": codes, "loaded": sorted(sys.modules)}), file=sys.stderr)
"""
QUESTIONS = [
    ["top"],
    ["top", "--json"],
    ["show", "best"],
    ["best"],
    ["why", "0"],
    ["compare", "0", "1", "--json"],
    ["pareto", "--json"],
    ["importance"],
    ["studies", "--json"],
]


def test_questions_load_neither_pydantic_nor_asyncio(
    database: Store, studies: Callable[..., StudyRecord]
) -> None:
    studies(database, trials=40)
    done = subprocess.run(
        [sys.executable, "-c", ASK, json.dumps(QUESTIONS)],
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stderr.splitlines()[-1])
    assert found["codes"] == [0] * len(QUESTIONS), done.stderr
    assert "sqlalchemy.dialects.sqlite" in found["loaded"]
    slow = {"alembic", "asyncio", "importlib.metadata", "jinja2", "optuna", "pydantic", "yaml"}
    assert not slow & set(found["loaded"])


SQLALCHEMY = """
import importlib, sys
import vram_search.store
assert "asyncio" not in sys.modules and not hasattr(importlib, "metadata")
from sqlalchemy.util import compat, concurrency, langhelpers, queue
import asyncio
assert asyncio.Lock and sys.modules["asyncio"] is asyncio
async def waits(): ...
waiting = waits()
assert concurrency.iscoroutine(waiting) and not concurrency.iscoroutine(1)
waiting.close()
assert concurrency.is_exit_exception(asyncio.CancelledError())
assert not concurrency.is_exit_exception(ValueError())
assert queue.asyncio.QueueFull is asyncio.QueueFull
assert list(compat.importlib_metadata_get("console_scripts"))
import importlib.metadata
assert compat.importlib_metadata.version is importlib.metadata.version
"""


def test_sqlalchemy_finds_asyncio_and_metadata_when_it_uses_them() -> None:
    done = subprocess.run([sys.executable, "-c", SQLALCHEMY], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


NOT_FIRST = """
import asyncio, importlib.metadata, sys
import vram_search.store
from sqlalchemy.util import compat
assert sys.modules["asyncio"] is asyncio is compat.asyncio
assert compat.importlib_metadata is importlib.metadata
"""


def test_modules_that_are_imported_already_stay() -> None:
    done = subprocess.run([sys.executable, "-c", NOT_FIRST], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
