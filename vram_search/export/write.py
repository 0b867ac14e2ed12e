"""Writes an export to a folder completely or not at all; replaces other files only if asked to."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from vram_search.data import Rows
from vram_search.errors import InputError, VramSearchError, reason_of
from vram_search.export.axolotl import AXOLOTL
from vram_search.export.llamafactory import LLAMA_FACTORY
from vram_search.export.script import PEFT, UNSLOTH
from vram_search.export.tool import Tool, export_files
from vram_search.export.trial import exported_trial, study_shape
from vram_search.export.trl import TRL
from vram_search.store import StudyRecord, TrialRecord

TOOLS: dict[str, Tool] = {
    "llama-factory": LLAMA_FACTORY,
    "axolotl": AXOLOTL,
    "trl": TRL,
    "unsloth": UNSLOTH,
    "peft": PEFT,
}
"""Tools by the name that `export --to` takes, as in `tools.EXPORTED`."""
DEFAULT_TOOL = "llama-factory"


def write_export(
    study: StudyRecord,
    trial: TrialRecord,
    rows: Rows,
    target: Path,
    *,
    to: str = DEFAULT_TOOL,
    template: str | None = None,
    model_name_or_path: str | None = None,
    force: bool = False,
) -> list[Path]:
    """Writes a trial for a tool into the folder `target`; the YAML's path comes first.

    Args:
        to: a key of TOOLS.
        template: name of the tool's template; the default is chosen by `Tool.choose_template`.
        model_name_or_path: replaces the study's model, for example by the folder made from a GGUF
            file.
        force: replaces existing files that differ.

    Raises:
        InputError: the reasons of `exported_trial`; no template is known, or one is named for a
            tool without templates; or other files exist in the folder.
        FaultyFileError: the configuration would not run, or rows would be dropped.
        VramSearchError: the folder cannot be written.
    """
    model = model_name_or_path or study.spec["model"]["model_name_or_path"]
    shape = study_shape(study, model)
    tool = TOOLS[to]
    if template is not None and tool.choose_template is None:
        raise InputError(
            f"{to} has no templates by name: it reads the tokenizer's own",
            "leave out --template, or export to llama-factory",
        )
    own = study.spec["dataset"].get("template")
    if own is not None and tool.choose_template is None:
        raise InputError(
            f"the study's chat template is {Path(own).name}, and {to} reads the tokenizer's own",
            "export to llama-factory, or write the template into the tokenizer's folder",
        )
    exported = exported_trial(
        study, trial, rows, model_name_or_path=model_name_or_path, shape=shape
    )
    if tool.choose_template is not None:
        exported = replace(exported, template=tool.choose_template(exported, template))
    files = export_files(tool, exported)
    return _write_files(target, files, force=force)


def _write_files(target: Path, files: dict[str, str], *, force: bool) -> list[Path]:
    paths = {target / name: text.encode() for name, text in files.items()}
    try:
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
        fresh = [path for path, data in paths.items() if _differs(path, data)]
        taken = [path for path in fresh if path.exists()]
        if taken and not force:
            raise InputError(
                f"{', '.join(str(path) for path in taken)}: there already, with other contents",
                "name another folder, or replace them with --force",
            )
        _replace_all({path: paths[path] for path in fresh})
    except OSError as error:
        raise VramSearchError(
            f"{target}: the export cannot be written ({reason_of(error)})",
            "name a folder that can be written, on a disk with room",
        ) from None
    return list(paths)


def _differs(path: Path, data: bytes) -> bool:
    return not path.is_file() or path.read_bytes() != data


def _replace_all(files: dict[Path, bytes]) -> None:
    """Writes all files under temporary names, then moves them into place, the first file last."""

    parts = {path: path.with_name(f".{path.name}.{os.getpid()}.part") for path in files}
    try:
        for path, part in parts.items():
            part.write_bytes(files[path])
        for path, part in reversed(parts.items()):
            part.replace(path)
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)
