"""Rooms whose names are imported when they are asked for; predicting rows loads no pydantic."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import vram_search

ROOMS = ["spec", "estimate", "search"]
PACKAGE = Path(vram_search.__file__).parent


def modules_for_the_type_checker(room: str) -> dict[str, str]:
    """Names and their modules."""
    tree = ast.parse((PACKAGE / room / "__init__.py").read_text(encoding="utf-8"))
    imports = (node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom))
    return {
        alias.asname: str(node.module).removeprefix(f"vram_search.{room}.")
        for node in imports
        if (node.module or "").startswith("vram_search")
        for alias in node.names
        if alias.asname
    }


@pytest.mark.parametrize("room", ROOMS)
def test_every_name_that_the_type_checker_sees_is_there(room: str) -> None:
    module = import_module(f"vram_search.{room}")
    modules = modules_for_the_type_checker(room)
    assert modules == module._MODULES
    assert all(hasattr(module, name) for name in modules)


@pytest.mark.parametrize("room", ROOMS)
def test_name_that_a_room_lacks_is_an_attribute_error(room: str) -> None:
    module = import_module(f"vram_search.{room}")
    with pytest.raises(AttributeError, match=f"vram_search.{room}.* has no attribute 'Nothing'"):
        module.Nothing  # noqa: B018, asking is the test


def test_predicting_rows_loads_no_pydantic() -> None:
    """It takes a quarter of the time that the command may take."""
    code = "import sys, vram_search.answers.points; print('pydantic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


ONE_MODEL = ["--model", "qwen2.5-3b", "--card", "16GB"]


@pytest.mark.parametrize("arguments", [["estimate", *ONE_MODEL], ["fit", *ONE_MODEL, "--json"]])
def test_an_answer_about_one_model_loads_only_what_it_needs(
    arguments: list[str], home: Path
) -> None:
    """Each of these takes longer to import than the answer takes to compute."""
    code = "from vram_search.cli.main import main; import sys; sys.exit(main())"
    command = [sys.executable, "-X", "importtime", "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "vram_search.estimate.memory.predict" in loaded
    slow = {"importlib.metadata", "pydantic", "rich", "sqlalchemy", "subprocess", "torch", "yaml"}
    assert not slow & loaded
