"""The Dockerfile and the compose file: built where Docker is installed, else checked by reading."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from vram_search.cli.main import COMMANDS, cli
from vram_search.cli.serve import PORT
from vram_search.store.faults import parse_url
from vram_search.store.location import DATABASE_VARIABLE

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "containers"
DOCKERFILE = (FOLDER / "Dockerfile").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text(encoding="utf-8"))
SERVICES = COMPOSE["services"]


def instructions(name: str) -> list[str]:
    """The arguments of an instruction, continued lines joined."""
    text = re.sub(r"\\\n\s*", "", DOCKERFILE)
    return re.findall(rf"^{name}\s+(.*)$", text, re.MULTILINE)


def parsed(words: list[str]) -> click.Context:
    """The context of a command line of ours; an unknown option raises."""
    command = cli.get_command(click.Context(cli), words[0])
    assert command is not None
    return command.make_context(words[0], words[1:])


def test_image_holds_every_file_that_it_installs_and_only_known_extras() -> None:
    sources = [word for line in instructions("COPY") for word in shlex.split(line)[:-1]]
    assert [source for source in sources if not (ROOT / source).exists()] == []
    allowed = (FOLDER / "Dockerfile.dockerignore").read_text().split()
    assert {f"!{source}" for source in sources} <= set(allowed)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    files = {project["readme"], *project["license-files"], "vram_search", "configs", "studies"}
    assert files <= set(sources)
    (extras,) = re.findall(r'"\.\[(.*?)\]"', DOCKERFILE)
    assert set(extras.split(",")) <= set(project["optional-dependencies"])
    assert {"serve", "train", "postgres"} <= set(extras.split(","))


def test_image_starts_the_service_as_a_user_without_rights() -> None:
    assert instructions("ENTRYPOINT") == ['["vram-search"]']
    (words,) = map(json.loads, instructions("CMD")[-1:])
    context = parsed(words)
    assert context.params["host"] == "0.0.0.0"
    assert instructions("USER") == ["search"]
    assert instructions("EXPOSE") == [str(PORT)]
    (health,) = instructions("HEALTHCHECK")
    code = json.loads(health[health.index("[") :])[-1]
    compile(code, "HEALTHCHECK", "exec")
    assert f":{PORT}/api/v1/health" in code


def test_every_program_of_ours_uses_the_database_of_the_compose_file() -> None:
    user = SERVICES["postgres"]["environment"]
    for name in ("service", "worker"):
        url = SERVICES[name]["environment"][DATABASE_VARIABLE]
        parts = parse_url(re.sub(r"\$\{.*\}", "secret", url))
        assert (parts.host, parts.database) == ("postgres", user["POSTGRES_DB"])
        assert parts.username == user["POSTGRES_USER"]
        assert parts.drivername == "postgresql+psycopg"
        assert SERVICES[name]["depends_on"]["postgres"]["condition"] == "service_healthy"
        assert SERVICES[name]["hostname"] == name
        folders = {volume.split(":")[1] for volume in SERVICES[name]["volumes"]}
        assert {"/data", "/studies"} <= folders


def test_port_is_published_on_this_machine_alone_and_no_secret_is_written() -> None:
    assert SERVICES["service"]["ports"] == [f"127.0.0.1:{PORT}:{PORT}"]
    assert "ports" not in SERVICES["postgres"]
    text = (FOLDER / "compose.yaml").read_text(encoding="utf-8")
    passwords = re.findall(r"PASSWORD: (.*)|search:(\S+?)@", text)
    assert passwords
    assert all(one.startswith("${POSTGRES_PASSWORD:?") for pair in passwords for one in pair if one)


def test_worker_runs_a_command_of_ours() -> None:
    command = SERVICES["worker"]["command"]
    assert command[0] in COMMANDS
    parsed(command)


@pytest.fixture
def docker() -> str:
    """The docker program, if its server answers and it knows compose."""
    found = shutil.which("docker")
    for words in (["info"], ["compose", "version"]):
        if found is None or subprocess.run([found, *words], capture_output=True).returncode:
            pytest.skip("Docker with compose is not here: its files were only read")
    assert found is not None
    return found


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_containers_are_built_and_answer(docker: str) -> None:
    environment = {**os.environ, "POSTGRES_PASSWORD": "x"}
    file = str(FOLDER / "compose.yaml")
    config = [docker, "compose", "--file", file, "config", "--quiet"]
    assert subprocess.run(config, env=environment).returncode == 0
    build = [docker, "build", "--file", str(FOLDER / "Dockerfile"), "--tag", "vram-search-test"]
    assert subprocess.run([*build, str(ROOT)]).returncode == 0
    help_ = [docker, "run", "--rm", "vram-search-test", "serve", "--help"]
    assert b"--folder" in subprocess.run(help_, capture_output=True).stdout
