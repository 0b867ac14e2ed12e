"""Who may import whom (docs: the rooms of the design), and what no file may contain."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import vram_search

PACKAGE = Path(vram_search.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

BELOW_WORKER = {
    "data",
    "errors",
    "estimate",
    "extras",
    "gpu",
    "installed",
    "models",
    "parsing",
    "protocol",
    "resources",
    "search",
    "shown_text",
    "spec",
    "store",
    "tools",
    "typed_fields",
    "units",
}
MAY_IMPORT: dict[str, set[str]] = {
    "__init__": {"answers", "api", "errors", "search"},
    "__main__": {"cli"},
    "errors": {"units"},
    "units": {"errors"},
    "extras": {"errors"},
    "installed": set(),
    "resources": {"errors", "units"},
    "shown_text": set(),
    "typed_fields": {"errors"},
    "parsing": {"errors", "units"},
    "spec": {"parsing", "errors", "units", "resources", "typed_fields"},
    "tools": {"errors", "parsing", "spec"},
    "data": {"parsing", "errors", "resources", "spec", "tools"},
    "model_code": {"errors", "spec"},
    "trace": {"errors", "estimate", "model_code", "spec", "tools"},
    "models": {"errors", "extras", "installed", "resources", "spec"},
    "estimate": {
        "parsing",
        "errors",
        "units",
        "resources",
        "spec",
        "typed_fields",
        "tools",
        "models",
        "installed",
    },
    "gpu": {"errors", "units", "spec"},
    "store": {"errors", "parsing", "shown_text", "typed_fields", "units", "resources", "spec"},
    "protocol": {"spec"},
    "search": {"errors", "units", "spec", "store"},
    "train": {"errors", "units", "spec", "data", "model_code", "protocol", "tools"},
    "outbound": {
        "errors",
        "parsing",
        "report",
        "resources",
        "search",
        "shown_text",
        "spec",
        "store",
        "units",
    },
    "worker": {"outbound"} | BELOW_WORKER,
    "export": {
        "parsing",
        "errors",
        "models",
        "tools",
        "units",
        "resources",
        "spec",
        "data",
        "store",
        "estimate",
    },
    "importing": {
        "parsing",
        "errors",
        "models",
        "tools",
        "units",
        "resources",
        "spec",
        "store",
        "typed_fields",
    },
    "report": {"errors", "units", "spec", "store", "estimate", "search"},
    "answers": {
        "protocol",
        "parsing",
        "errors",
        "data",
        "gpu",
        "models",
        "tools",
        "typed_fields",
        "units",
        "resources",
        "spec",
        "store",
        "estimate",
        "report",
        "search",
        "worker",
    },
    "api": {"answers", "export", "gpu", "spec", "store", "worker"},
    "verify": {"export", "importing", "train"} | BELOW_WORKER,
    "selftest": {"worker"} | BELOW_WORKER,
    "web": {"answers", "api", "export", "outbound", "report", "worker"} | BELOW_WORKER,
    "upkeep": {"answers", "errors", "search", "shown_text", "spec", "store", "units", "worker"},
    "cli": {"web", "worker", "export", "importing", "report", "answers", "outbound"}
    | {"selftest", "upkeep", "verify"}
    | BELOW_WORKER,
}
"""Room -> rooms it may import, besides itself and what `vram_search/__init__.py` itself holds: the
version and CallablePackage."""

AT_HOME_IN = {
    "optuna": {"search"},
    "torch": {"model_code", "trace", "train"},
    "transformers": {"model_code", "trace", "train"},
    "peft": {"trace", "train"},
    "bitsandbytes": {"model_code", "trace", "train"},
    "accelerate": {"trace", "train"},
    "pynvml": {"gpu"},
    "huggingface_hub": {"models"},
    "apprise": {"outbound"},
    "tensorboardX": {"outbound"},
    "mlflow": {"outbound"},
    "wandb": {"outbound"},
    "trackio": {"outbound"},
    "ray": {"worker"},
}
"""Heavy packages, and the only rooms that may import each, in a function's body too. `model_code`,
`trace` and `train` run in processes of their own."""

FORBIDDEN = (
    r"trust_remote_code\s*=\s*True",
    r"yaml\.load\(",
    r"\bpickle\b",
    r"shell\s*=\s*True",
)
"""Each runs code that came with somebody's data."""


def room_of(module: str) -> str:
    """`spec` of `vram_search.spec.study`; the package itself is `__init__`."""
    return f"{module}.__init__".split(".")[1]


def room_of_file(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def name_of(file: Path) -> str:
    return file.relative_to(PACKAGE.parent).as_posix()


def imported_modules(source: str) -> Iterator[str]:
    """Modules that a source imports at any depth, by `import_module("...")` too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where an arrow goes"
            module = node.module or ""
            if module == "vram_search":
                yield from (f"{module}.{alias.name}" for alias in node.names)
            else:
                yield module
        elif isinstance(node, ast.Call) and node.args:
            function = node.func
            name = function.attr if isinstance(function, ast.Attribute) else ""
            name = function.id if isinstance(function, ast.Name) else name
            if name in ("import_module", "__import__"):
                yield _beginning(node.args[0])


def _beginning(text: ast.expr) -> str:
    """The constant start of a text; a module's name that is computed throughout is a fault."""
    if isinstance(text, ast.JoinedStr) and text.values:
        text = text.values[0]
    assert isinstance(text, ast.Constant), "an import whose name nobody can read"
    return str(text.value)


LAZY_NAME = ""
"""The room of `import_module(f"vram_search.{...}")`: imports for type checkers name the rooms."""


@cache
def modules_of(file: Path) -> frozenset[str]:
    """Modules that a file imports at any depth."""
    return frozenset(imported_modules(file.read_text(encoding="utf-8")))


def own_imports(file: Path) -> set[str]:
    """Rooms of ours that a file imports, its own left out."""
    modules = modules_of(file)
    ours = {m for m in modules if m == "vram_search" or m.startswith("vram_search.")}
    rooms = {room_of(module) for module in ours} - {room_of_file(file)}
    return rooms - {"__init__", "__version__", "CallablePackage", LAZY_NAME}


def foreign_imports(file: Path) -> set[str]:
    return {module.split(".")[0] for module in modules_of(file)}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import vram_search.spec.study", {"vram_search.spec.study"}),
        ("from vram_search.spec import Card", {"vram_search.spec"}),
        ("from vram_search import train, spec", {"vram_search.train", "vram_search.spec"}),
        ("def f():\n    if True:\n        import torch.nn as nn", {"torch.nn"}),
        ("try:\n    from optuna import create_study\nexcept OSError:\n    pass", {"optuna"}),
        ("import importlib\nimportlib.import_module('pynvml')", {"importlib", "pynvml"}),
        ("__import__(f'vram_search.cli.{name}')", {"vram_search.cli."}),
        ("text = 'import torch'", set()),
    ],
)
def test_imports_are_found_at_any_depth(source: str, found: set[str]) -> None:
    assert set(imported_modules(source)) == found


def test_every_room_is_in_the_table() -> None:
    assert {room_of_file(file) for file in FILES} == set(MAY_IMPORT)


def test_architecture_page_shows_the_table() -> None:
    page = (PACKAGE.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    shown = dict(re.findall(r"^\| `(\w+)` \| [^|]+ \| ([^|]+) \|$", page, re.MULTILINE))
    table = {room: ", ".join(sorted(rooms)) or "-" for room, rooms in MAY_IMPORT.items()}
    assert shown == table, "correct the last column in docs/architecture.md, and describe new rooms"


def test_arrows_go_one_way() -> None:
    """No room reaches itself through others; errors and units may know each other."""
    for room in set(MAY_IMPORT) - {"errors", "units"}:
        reached: set[str] = set()
        ahead = set(MAY_IMPORT[room])
        while ahead:
            reached |= ahead
            ahead = set().union(*(MAY_IMPORT[r] for r in ahead)) - reached
        assert room not in reached


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_file_imports_only_the_rooms_below_its_own(file: Path) -> None:
    room = room_of_file(file)
    assert own_imports(file) - MAY_IMPORT[room] == set(), f"{name_of(file)} is in room {room}"


@pytest.mark.parametrize("package", AT_HOME_IN)
def test_heavy_package_is_imported_in_its_rooms_alone(package: str) -> None:
    rooms = {room_of_file(file) for file in FILES if package in foreign_imports(file)}
    assert rooms <= AT_HOME_IN[package]


@pytest.mark.parametrize("package", ["optuna", "torch", "pynvml"])
def test_heavy_package_is_found_where_it_is_at_home(package: str) -> None:
    """Otherwise the test above would pass by finding nothing at all."""
    assert any(package in foreign_imports(file) for file in FILES)


@pytest.mark.parametrize("pattern", FORBIDDEN)
def test_no_file_runs_code_that_came_with_data(pattern: str) -> None:
    found = [name_of(f) for f in FILES if re.search(pattern, f.read_text(encoding="utf-8"))]
    assert found == []


LOADED = "import sys, importlib; importlib.import_module(sys.argv[1]); print(*sys.modules)"
TRAINING = {"torch", "transformers", "peft", "bitsandbytes", "accelerate"}


@pytest.mark.parametrize(
    ("module", "kept_out"),
    [
        ("vram_search.cli.main", {*TRAINING, "optuna", "alembic", "rich", "sqlalchemy"}),
        ("vram_search.cli.best", {*TRAINING, "optuna", "alembic", "rich"}),
        ("vram_search.search.study", TRAINING),
        ("vram_search.report.why.explain", {*TRAINING, "optuna", "alembic", "numpy"}),
        ("vram_search.worker.run", TRAINING),
        ("vram_search.export", {*TRAINING, "optuna", "alembic"}),
    ],
)
def test_importing_a_module_leaves_heavy_packages_out(module: str, kept_out: set[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADED, module], capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert module in loaded
    assert loaded & kept_out == set()
