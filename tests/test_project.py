"""The files that a newcomer, a package index and the continuous tests rely on."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from vram_search.parsing.yaml_text import parse_yaml_strictly

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PROJECT = PYPROJECT["project"]


def workflow() -> dict[str, Any]:
    loaded = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text("utf-8"))
    assert isinstance(loaded, dict)
    return loaded


def commands(job: dict[str, Any]) -> str:
    return "\n".join(step.get("run", "") for step in job["steps"])


def test_workflows_repeat_no_key() -> None:
    for file in sorted((ROOT / ".github" / "workflows").glob("*.yml")):
        assert parse_yaml_strictly(file.read_text("utf-8"))[1] == [], file.name


def test_license_is_the_one_that_the_metadata_names() -> None:
    (name,) = PROJECT["license-files"]
    text = (ROOT / name).read_text("utf-8")
    assert PROJECT["license"] == "Apache-2.0"
    assert "Apache License\n                           Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_every_supported_python_runs_the_tests() -> None:
    job = workflow()["jobs"]["test"]
    tested = job["strategy"]["matrix"]["python"]
    prefix = "Programming Language :: Python :: 3."
    named = [c.rpartition(" ")[2] for c in PROJECT["classifiers"] if c.startswith(prefix)]
    supported = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", PROJECT["requires-python"])
    assert supported is not None
    lowest, above = supported.groups()
    assert tested == named == [f"3.{minor}" for minor in range(int(lowest), int(above))]
    assert "make test" in commands(job)


def test_lowest_versions_are_tested_on_the_lowest_python() -> None:
    job = workflow()["jobs"]["lowest-versions"]
    (python,) = [step["with"]["python-version"] for step in job["steps"] if "with" in step]
    assert PROJECT["requires-python"].startswith(f">={python},")
    assert "--resolution lowest-direct" in commands(job)
    assert "pytest" in commands(job)


WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: str(file.name))
def test_workflow_calls_targets_and_files_that_exist(file: Path) -> None:
    loaded = yaml.safe_load(file.read_text("utf-8"))
    (targets,) = re.findall(
        r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE
    )
    jobs = loaded["jobs"].values()
    assert jobs
    for job in jobs:
        assert job["timeout-minutes"]
        assert all(("uses" in step) != ("run" in step) for step in job["steps"])
        called = commands(job)
        assert set(re.findall(r"\bmake ([\w-]+)", called)) <= set(targets.split())
        for named in re.findall(r"requirements/[\w.]+", called):
            assert (ROOT / named).is_file()
    assert set(loaded["permissions"]) == {"contents"}


def test_packages_are_audited_and_a_release_has_a_bill_of_materials() -> None:
    assert "pip-audit --require-hashes" in commands(workflow()["jobs"]["audit"])
    text = (ROOT / ".github" / "workflows" / "release.yml").read_text("utf-8")
    assert "make sbom" in text


LOCK = (ROOT / "requirements" / "ci.lock").read_text("utf-8")


def test_lock_pins_every_dependency_within_its_bounds() -> None:
    locked = {
        canonicalize_name(name): version
        for name, version in re.findall(r"^([\w.-]+)==([\w.+!-]+)", LOCK, re.MULTILINE)
    }
    wanted = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]
    for requirement in map(Requirement, wanted):
        version = locked.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement} is missing: run `make lock`"
        assert requirement.specifier.contains(version), f"{requirement}: run `make lock`"


def test_lock_has_hashes_and_no_address() -> None:
    entries = re.split(r"^(?=[\w.-]+==)", LOCK, flags=re.MULTILINE)[1:]
    assert len(entries) > 50
    assert [entry for entry in entries if "--hash=sha256:" not in entry] == []
    assert "://" not in LOCK and "--index" not in LOCK


def test_every_dependency_of_the_package_has_a_lower_bound() -> None:
    assert [name for name in PROJECT["dependencies"] if ">=" not in name] == []


def test_issue_form_asks_for_the_doctor() -> None:
    form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / "bug.yml").read_text("utf-8"))
    asked = {field["id"]: field for field in form["body"]}
    assert "vram-search doctor --json" in asked["doctor"]["attributes"]["label"]
    assert asked["doctor"]["validations"] == {"required": True}


def test_issue_form_asks_for_the_selftest() -> None:
    form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / "bug.yml").read_text("utf-8"))
    asked = {field["id"]: field for field in form["body"]}
    assert "vram-search selftest --json" in asked["selftest"]["attributes"]["label"]


def test_hooks_before_a_commit_are_the_checks_of_make() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))
    entries = [hook["entry"] for repo in hooks["repos"] for hook in repo["hooks"]]
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for command in ("ruff check", "ruff format", "mypy"):
        assert any(entry.startswith(f"python -m {command}") for entry in entries)
        assert f"$(BIN)/{command}" in makefile


def test_changelog_begins_with_what_is_unreleased() -> None:
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    first, *released = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert first == "Unreleased"
    assert released
    assert [
        name for name in released if not re.fullmatch(r"\d+\.\d+\.\d+ - \d{4}-\d\d-\d\d", name)
    ] == []


@pytest.mark.skipif(not shutil.which("make"), reason="there is no make here")
def test_make_help_lists_every_target() -> None:
    # --no-print-directory: under `make test` it would name its folder.
    command = ["make", "--no-print-directory", "help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    listed = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines()}
    (targets,) = re.findall(
        r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE
    )
    assert set(listed) == set(targets.split())
    assert all(listed.values())


def test_source_distribution_has_all_that_its_tests_import() -> None:
    shipped = PYPROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    folders = {path.name for path in ROOT.iterdir() if path.is_dir()}
    imported = set()
    for file in (ROOT / "tests").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom):
                imported.add((node.module or "").split(".")[0])
    needed = (imported & folders) | {"configs", "studies", "docs", "requirements"}
    assert {"bench", "vram_search"} < needed
    assert needed <= {name.strip("/") for name in shipped}


def test_every_file_of_the_source_distribution_exists() -> None:
    shipped = PYPROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    assert [name for name in shipped if not (ROOT / name.strip("/")).exists()] == []


def runnable_benches() -> set[str]:
    """Modules of bench/ that `python -m` starts: those that look at their own name."""
    found = set()
    for file in (ROOT / "bench").rglob("*.py"):
        if "__name__ ==" in file.read_text("utf-8"):
            module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
            found.add(module.removesuffix(".__main__"))
    return found


def test_bench_page_names_every_script() -> None:
    page = (ROOT / "bench" / "README.md").read_text("utf-8")
    started = set(re.findall(r"^\| `python -m ([\w.]+)`", page, re.MULTILINE))
    assert started <= runnable_benches()
    assert [module for module in runnable_benches() if f"{module}`" not in page] == []


def test_every_script_of_the_bench_page_answers_help() -> None:
    page = (ROOT / "bench" / "README.md").read_text("utf-8")
    for module in set(re.findall(r"^\| `python -m ([\w.]+)`", page, re.MULTILINE)):
        place = ROOT / module.replace(".", "/")
        file = place / "__main__.py" if place.is_dir() else place.with_suffix(".py")
        assert ".parse_args(" in file.read_text("utf-8"), f"{module} --help would run it"


def test_every_night_runs_the_slow_tests_too() -> None:
    assert "make test-all" in commands(workflow()["jobs"]["every-night"])
    makefile = (ROOT / "Makefile").read_text("utf-8")
    quick, whole = (
        re.search(rf"^{name}:.*\n\t(.*)", makefile, re.MULTILINE) for name in ("test", "test-all")
    )
    assert quick is not None and "not slow" in quick[1]
    assert whole is not None and "slow" not in whole[1]
