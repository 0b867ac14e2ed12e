"""Writes the pages of docs/ that follow from code and data; `--check` only compares."""

from __future__ import annotations

import json
import sys
import types
import typing
from pathlib import Path

import click
import td_010
import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from vram_search.answers.schemas import ANSWERS, answer_schema
from vram_search.cli.main import COMMANDS, cli
from vram_search.spec import StudySpec
from vram_search.spec.lora_targets import LORA_TARGET_SETS
from vram_search.spec.optimizers import OPTIMIZERS

DOCS = Path(__file__).resolve().parent


def cli_page() -> str:
    """Every subcommand's help."""
    parts = ["# Command line\n\nWritten by `make docs` from the commands' own help.\n"]
    context = click.Context(cli, info_name="vram-search", **cli.context_settings)
    parts.append(f"```\n{cli.get_help(context)}\n```\n")
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        inner = click.Context(command, info_name=name, parent=context)
        inner.terminal_width = 90
        parts.append(f"## {name}\n\n```\n{command.get_help(inner)}\n```\n")
        if isinstance(command, click.Group):
            parts += subcommands(command, inner)
    return "\n".join(parts)


def subcommands(group: click.Group, context: click.Context) -> list[str]:
    """The help of each command in a group."""
    parts = []
    for name, command in group.commands.items():
        inner = click.Context(command, info_name=name, parent=context)
        inner.terminal_width = 90
        title = f"{context.info_name} {name}"
        parts.append(f"### {title}\n\n```\n{command.get_help(inner)}\n```\n")
    return parts


def study_page() -> str:
    """Every key of a study file with type, default and meaning."""
    lines = [
        "# Study file",
        "",
        "Written by `make docs` from `vram_search/spec`. A study is one YAML file; relative paths",
        "start from its folder. `vram-search run STUDY.yaml --dry-run` checks a file and runs",
        "nothing. `--set key.inner=value` overrides any key.",
        "",
        f"LoRA target sets: {', '.join(f'`{name}`' for name in LORA_TARGET_SETS)}; "
        "or lists of module names, `[[q_proj, v_proj, o_proj]]`.",
        "",
        f"Optimizers: {', '.join(f'`{name}`' for name in OPTIMIZERS)}.",
        "",
        "| key | type | default | meaning |",
        "| --- | --- | --- | --- |",
    ]
    return "\n".join([*lines, *rows(StudySpec, "")]) + "\n"


def rows(model: type[BaseModel], prefix: str) -> list[str]:
    """Table rows of a model's fields, those of inner models under dotted keys."""
    found = []
    for name, field in model.model_fields.items():
        key = f"{prefix}{name}"
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            said = (inner.__doc__ or "").strip().split("\n")[0]
            given = field.default
            own = given.model_dump(exclude_defaults=True) if isinstance(given, inner) else None
            default = f"`{as_yaml(own)}`" if own else ""
            found.append(f"| `{key}` | mapping | {default} | {field.description or said} |")
            found += rows(inner, f"{key}.")
            continue
        default = "required"
        if field.default is not PydanticUndefined:
            default = f"`{as_yaml(field.default)}`" if field.default not in (None, "") else ""
        found.append(f"| `{key}` | {words(inner)} | {default} | {field.description or ''} |")
        if (entry := entry_of(inner)) is not None:
            found += rows(entry, f"{key}.")
    return found


def entry_of(annotation: object) -> type[BaseModel] | None:
    """The model that a union takes alone or as entries of a list; None for other types."""
    if typing.get_origin(annotation) is typing.Annotated:
        return entry_of(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) not in (types.UnionType, typing.Union):
        return None
    parts = (part for one in typing.get_args(annotation) for part in (one, *typing.get_args(one)))
    return next((p for p in parts if isinstance(p, type) and issubclass(p, BaseModel)), None)


def as_yaml(value: object) -> str:
    """As it would stand in a study file."""
    plain = value.model_dump() if isinstance(value, BaseModel) else value
    plain = list(plain) if isinstance(plain, tuple) else plain
    text = yaml.safe_dump(plain, default_flow_style=True, sort_keys=False, width=1000)
    return text.removesuffix("\n").removesuffix("\n...")


def words(annotation: object) -> str:
    """A type in a reader's words."""
    origin = typing.get_origin(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "mapping"
    inner = [words(part) for part in typing.get_args(annotation) if part is not type(None)]
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in typing.get_args(annotation))
    if origin is typing.Annotated:
        return inner[0]
    if origin is tuple:
        return f"list of {inner[0]}"
    if origin in (types.UnionType, typing.Union):
        return " or ".join(inner)
    names = {int: "whole number", float: "number", str: "text", bool: "true, false"}
    return names.get(typing.cast(type, annotation), getattr(annotation, "__name__", "?"))


def schema_files() -> dict[str, str]:
    """The JSON schema of every answer."""
    return {
        f"schema/{name}.json": json.dumps(answer_schema(name), indent=2) + "\n" for name in ANSWERS
    }


def main() -> int:
    """Writes the pages, or with --check returns 1 where they are stale."""
    stale = []
    written = {
        "cli.md": cli_page(),
        "study-file.md": study_page(),
        **schema_files(),
        **td_010.pages(),
    }
    for name, text in written.items():
        file = DOCS / name
        if file.is_file() and file.read_text(encoding="utf-8") == text:
            continue
        stale.append(name)
        if "--check" not in sys.argv:
            file.parent.mkdir(exist_ok=True)
            file.write_text(text, encoding="utf-8", newline="\n")
    if stale:
        print(f"{'stale' if '--check' in sys.argv else 'written'}: {', '.join(stale)}")
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
