"""`vram-search next`: the study for another night, or the advice to stop."""

from __future__ import annotations

from pathlib import Path

import click

from vram_search.cli.console import echo
from vram_search.cli.options import (
    NamedPath,
    database_option,
    json_option,
    print_json,
    results_of,
    study_option,
)
from vram_search.errors import InputError
from vram_search.resources import replace_text, shell_word
from vram_search.store.location import file_name


@click.command("next", short_help="Propose the next night: a narrower study, or to stop.")
@click.option(
    "-o",
    "--output",
    type=NamedPath(path_type=Path, dir_okay=False),
    help="File to write; default: the new study's name.",
)
@click.option("--seeds", is_flag=True, help="Run the three best again with two other seeds.")
@study_option
@database_option
@json_option
def command(
    output: Path | None, seeds: bool, study: str | None, database: str | None, as_json: bool
) -> None:
    """Writes a study that searches what the best third of the trials have in common. If there is
    nothing to narrow, or with --seeds, it runs the three best again with two other seeds.

    \b
    Examples:
      vram-search next
      vram-search next --seeds
      vram-search next --study my-model -o second-night.yaml
    """
    from vram_search.report.wrapping import wrapped

    with results_of(study, database) as results:
        answer = results.next_study(study, seeds=seeds)
    if as_json:
        print_json(answer.as_dict())
        return
    lines = [line for reason in answer.reasons for line in wrapped(reason, "", "  ")]
    if answer.proposal is not None:
        file = output or Path(f"{file_name(str(answer.proposal['study']))}.yaml")
        _write(file, answer.proposal)
        lines += [f"written: {file}", f"next: vram-search run {shell_word(file)} --dry-run"]
    elif not answer.stop:
        lines.append("next: vram-search run STUDY.yaml with the same file")
    echo("\n".join(lines))


def _write(file: Path, proposal: dict[str, object]) -> None:
    """Writes the proposed study to a new file.

    Raises:
        InputError: the file exists.
    """
    import json

    import yaml

    if file.exists():
        raise InputError(f"{file} exists", "choose another file with -o")
    plain = json.loads(json.dumps(proposal))  # PyYAML writes no subclass of a mapping
    replace_text(file, yaml.safe_dump(plain, sort_keys=False))
