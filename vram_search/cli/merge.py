"""`vram-search merge N|best|pN`: the adapter merged into its base model."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vram_search.cli.adapter import named_adapter
from vram_search.cli.console import echo
from vram_search.cli.options import (
    FiniteFloatRange,
    NamedPath,
    database_option,
    json_option,
    print_json,
    study_option,
)
from vram_search.errors import InputError
from vram_search.resources import shell_word

if TYPE_CHECKING:
    from vram_search.answers.adapter import KeptAdapter

DEFAULT_TOLERANCE = 0.02
"""Nats per token. The base is in NF4 in the search and in bf16 here."""


@click.command("merge", short_help="Merge an adapter into a model that runs.")
@click.argument("trial", metavar="N|best|pN")
@click.option(
    "-o",
    "--output",
    type=NamedPath(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Folder of the model; default ./merged/STUDY-trial-N.",
)
@click.option(
    "--to",
    type=click.Choice(["folder", "ollama", "ollama-adapter"]),
    default="folder",
    show_default=True,
    help="A folder of safetensors; a GGUF file and Modelfile for Ollama; or the adapter alone.",
)
@click.option(
    "--gguf",
    "kind",
    type=click.Choice(["bf16", "f16", "q8_0", "q4_0"]),
    default="bf16",
    show_default=True,
    help="Form of the GGUF file.",
)
@click.option(
    "--ollama-base",
    metavar="NAME",
    help="With ollama-adapter: Ollama's name of the base; default: it is written too.",
)
@click.option(
    "--llama-cpp",
    type=NamedPath(path_type=Path, exists=True, file_okay=False),
    metavar="DIR",
    help="Folder of llama.cpp: its converter knows all families.",
)
@click.option("--no-check", is_flag=True, help="Do not measure the merged model's eval_loss.")
@click.option(
    "--tolerance",
    type=FiniteFloatRange(min=0, min_open=True),
    metavar="NATS",
    default=DEFAULT_TOLERANCE,
    show_default=True,
    help="By how much the merged model may be worse, per token.",
)
@click.option("--force", is_flag=True, help="Replace an existing folder.")
@study_option
@database_option
@json_option
def command(
    trial: str,
    output: Path | None,
    to: str,
    kind: str,
    ollama_base: str | None,
    llama_cpp: Path | None,
    no_check: bool,
    tolerance: float,
    force: bool,
    study: str | None,
    database: str | None,
    as_json: bool,
) -> None:
    """Merges the adapter of trial N, of the best trial, or of product run pN (`train`) into the
    base model, in bf16 on the CPU.

    Weights are read and written one by one, so that little memory is needed. Tokenizer, chat
    template and generation settings come with it. Then the merged model's eval_loss is measured on
    the study's evaluation rows and compared with the record; that needs memory for the whole
    model. Exit code 1 if it is worse by more than the tolerance.

    With --to ollama the merged model is written as a GGUF file, with a Modelfile whose template
    renders as the trained chat template, and the GGUF file is measured. With --to ollama-adapter
    nothing is merged: the adapter is a GGUF file of its own, which the Modelfile's ADAPTER line
    puts on the base model.

    \b
    Examples:
      vram-search merge best
      vram-search merge p3 -o my-model
      vram-search merge best --to ollama --gguf q8_0
      vram-search merge best --to ollama-adapter --ollama-base qwen2.5:3b
    """
    from vram_search.answers.merge import merge_answer
    from vram_search.answers.model_card import upload_line, write_card
    from vram_search.cli.new_folder import new_folder
    from vram_search.protocol import AnyConvertJob, GgufAdapterJob, MergeJob, OllamaJob
    from vram_search.report.wrapping import wrapped
    from vram_search.store.location import database_url, study_folder
    from vram_search.worker.convert import convert
    from vram_search.worker.identity import WEIGHTS, loaded_before
    from vram_search.worker.talk import load_job

    _check_options(to, ollama_base, llama_cpp)
    adapter, untuned = named_adapter(trial, study, database)
    record = adapter.study
    name = adapter.name if to == "folder" else f"{adapter.name}-{to}"
    folder = (output or Path("merged") / name).resolve()
    load = load_job(record)
    if folder.exists():
        _check_replaceable(folder, force, (Path(load.model_name_or_path), adapter.folder))
    if load.random_weights:
        raise InputError(
            f"study {record.name} trains random weights: there is no model to merge with",
            "search with pretrained weights",
        )
    loaded = loaded_before(record, adapter.trial.hyperparameters.get("model")) or {}
    log = study_folder(database_url(database), record.name).log
    with new_folder(folder) as part:
        merge = MergeJob(
            load=load,
            adapter_folder=str(adapter.folder),
            target=str(part),
            measure=not no_check,
            base_fingerprints={name: loaded[name] for name in WEIGHTS if name in loaded},
        )
        job: AnyConvertJob = merge
        if to == "ollama":
            job = OllamaJob(
                merge=merge,
                kind=kind,
                llama_cpp=None if llama_cpp is None else str(llama_cpp.resolve()),
                comments=_comments(adapter),
            )
        elif to == "ollama-adapter":
            job = GgufAdapterJob(
                merge=merge, kind=kind, ollama_base=ollama_base, comments=_comments(adapter)
            )
        merged = convert(job, log, lambda text: echo(text, err=True))
        answer = merge_answer(adapter, merged, folder, tolerance)
        if to == "folder":
            write_card(adapter, "merged", untuned, part, answer.merged_eval_loss)
    if as_json:
        print_json(answer.as_dict())
    else:
        echo(f"{'wrote' if to == 'ollama-adapter' else 'merged'} {adapter.words}: {folder}")
        for text in (answer.sentence, *answer.notes):
            echo("\n".join(wrapped(text, "", "")))
        if to != "folder":
            echo(
                f"next: ollama create {adapter.name.lower()} -f {shell_word(folder / 'Modelfile')}"
            )
        else:
            echo(f"next: {upload_line(folder, adapter.name)}")
    sys.exit(1 if answer.agrees is False else 0)


def _check_options(to: str, ollama_base: str | None, llama_cpp: Path | None) -> None:
    """Checks that each option belongs to the form that --to names.

    Raises:
        InputError: an option belongs to another form.
    """
    if ollama_base is not None and to != "ollama-adapter":
        raise InputError("--ollama-base names the base of an adapter", "add --to ollama-adapter")
    if llama_cpp is not None and to == "ollama-adapter":
        raise InputError("--llama-cpp writes merged models", "use --to ollama, or leave it out")


def _check_replaceable(folder: Path, force: bool, needed: Sequence[Path]) -> None:
    """Refuses to replace a folder that `merge` did not write.

    Args:
        needed: base model and adapter.

    Raises:
        InputError: it holds other things, or --force is missing.
    """
    if not force:
        raise InputError(f"{folder} exists", "choose another folder with -o, or add --force")
    if any(place.resolve().is_relative_to(folder) for place in needed):
        raise InputError(f"{folder} holds the base model or the adapter", "choose another with -o")
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder", "choose another with -o")
    inside = list(folder.iterdir())
    is_merged = any(entry.name in ("config.json", "Modelfile") for entry in inside)
    if inside and (not is_merged or any(entry.is_dir() for entry in inside)):
        raise InputError(
            f"{folder} holds other things than a merged model: --force does not delete them",
            "choose another folder with -o",
        )


def _comments(adapter: KeptAdapter) -> tuple[str, ...]:
    """Head of the Modelfile."""
    loss = "unknown" if adapter.eval_loss is None else f"{adapter.eval_loss:.4f}"
    return (
        f"{adapter.words}; eval_loss {loss} before it was merged",
        f"ollama create {adapter.name.lower()} -f Modelfile",
    )
