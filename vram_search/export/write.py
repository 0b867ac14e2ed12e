"""Writes an export to a folder: all of it or nothing, and never over another file unasked."""

from __future__ import annotations

import contextlib
import os
from datetime import datetime
from itertools import chain, islice
from pathlib import Path

from vram_search.data import Rows
from vram_search.errors import InputError, VramSearchError
from vram_search.export.axolotl import AXOLOTL
from vram_search.export.chat_template import count_differing, load_chat_template, match_template
from vram_search.export.llamafactory import llamafactory_files
from vram_search.export.script import PEFT, UNSLOTH
from vram_search.export.template import Template, named_template, template_by_name
from vram_search.export.tool import Tool, export_files
from vram_search.export.trial import exported_trial, study_shape
from vram_search.export.trl import TRL
from vram_search.store import StudyRecord, TrialRecord

LLAMA_FACTORY = "llama-factory"
TOOLS: dict[str, Tool] = {"axolotl": AXOLOTL, "trl": TRL, "unsloth": UNSLOTH, "peft": PEFT}
"""The tools that read the tokenizer's chat template; LLaMA-Factory has templates of its own."""

ROWS_COMPARED = 200
"""Rows of each split whose text is compared with the model's own chat template."""


def write_export(
    study: StudyRecord,
    trial: TrialRecord,
    rows: Rows,
    target: Path,
    *,
    to: str = LLAMA_FACTORY,
    template: str | None = None,
    model_name_or_path: str | None = None,
    force: bool = False,
) -> list[Path]:
    """Writes a trial for a tool into the folder `target`; the YAML's path comes first.

    Args:
        to: LLAMA_FACTORY or a key of TOOLS.
        template: LLaMA-Factory's template; default: the one that gives the rows the same text as
            the model's own chat template, or else the one known for the model's name.
        model_name_or_path: instead of the study's, for example the folder made from a GGUF file.
        force: replace files that are there and differ.

    Raises:
        InputError: as `exported_trial`; no template is known, or one is named for a tool that has
            none; or other files are in the way.
        FaultyFileError: the configuration would not run, or rows would be dropped.
        VramSearchError: the folder cannot be written.
    """
    model = model_name_or_path or study.spec["model"]["model_name_or_path"]
    shape = study_shape(study, model)
    if to == LLAMA_FACTORY:
        files = llamafactory_files(
            study,
            trial,
            rows,
            template=_choose_template(study, trial, rows, model, template),
            model_name_or_path=model_name_or_path,
            shape=shape,
        )
    elif template is not None:
        raise InputError(
            f"{to} has no templates by name: it reads the tokenizer's own",
            "leave out --template, or export to llama-factory",
        )
    else:
        exported = exported_trial(
            study, trial, rows, model_name_or_path=model_name_or_path, shape=shape
        )
        files = export_files(TOOLS[to], exported)
    return _write_files(target, files, force=force)


def _choose_template(
    study: StudyRecord, trial: TrialRecord, rows: Rows, model: str | None, named: str | None
) -> Template | None:
    """None where the model's name has to do, or there is no model at all."""
    when = trial.finished_at or trial.started_at
    chosen = named_template(named) if named else None
    folder = Path(study.spec["model"]["tokenizer"] or model or "")
    chat = load_chat_template(folder) if model and folder.is_dir() else None
    if model is None or chat is None:
        return chosen
    compared = list(chain(islice(rows.train, ROWS_COMPARED), islice(rows.eval, ROWS_COMPARED)))
    if chosen is None:
        known = _known_template(study, model, when)
        preferred = known.name if known else None
        if matched := match_template(chat, compared, preferred, when):
            return matched
        chosen = known
    if chosen is None:
        return None
    differing = count_differing(chosen, chat, compared, when)
    if differing is None:
        return chosen
    note = f"other text than the model's own chat template in {differing} of {len(compared)} rows"
    return Template(chosen.name, chosen.default_system, note)


def _known_template(study: StudyRecord, model: str, when: datetime) -> Template | None:
    with contextlib.suppress(InputError):
        return template_by_name(model, study.model.get("model_type"), when)
    return None


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
            f"{target}: the export cannot be written ({error})",
            "name a folder that can be written, on a disk with room",
        ) from None
    return list(paths)


def _differs(path: Path, data: bytes) -> bool:
    return not path.is_file() or path.read_bytes() != data


def _replace_all(files: dict[Path, bytes]) -> None:
    """Writes everything beside its place before anything is moved into it; the first file last."""
    parts = {path: path.with_name(f".{path.name}.{os.getpid()}.part") for path in files}
    try:
        for path, part in parts.items():
            part.write_bytes(files[path])
        for path, part in reversed(parts.items()):
            part.replace(path)
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)
