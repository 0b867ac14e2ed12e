"""`vram-search calibrate`: measures what this card, driver and stack add to a training's bytes."""

from __future__ import annotations

import time
from pathlib import Path

import click

from vram_search.cli.console import echo
from vram_search.cli.options import json_option, print_json
from vram_search.errors import InputError, VramSearchError
from vram_search.estimate.calibration import Calibration, save_calibration
from vram_search.units import format_bytes, format_duration


@click.command("calibrate", short_help="Measure this card's context and workspaces.")
@json_option
def command(as_json: bool) -> None:
    """Measures on this card, in less than a minute, what predictions otherwise assume: the CUDA
    context, cuBLAS's workspaces and torch's allocator. Estimates for this kind of card use the
    figures from then on. Nothing else should use the card meanwhile.

    \b
    Examples:
      vram-search calibrate
      vram-search calibrate --json
    """
    from vram_search.gpu import NoGpuError, NvmlReader
    from vram_search.worker.calibrate import calibrate

    try:
        reader = NvmlReader()
    except NoGpuError as error:
        raise InputError(f"nothing to calibrate: {error.message}", error.remedy) from None
    begun = time.monotonic()
    echo(f"{reader.device().name}, driver {reader.device().driver_version}", err=True)
    calibration = calibrate(reader, lambda stage: echo(f"  {stage} ...", err=True))
    try:
        file = save_calibration(calibration)
    except OSError as error:
        raise VramSearchError(
            f"the calibration cannot be stored: {error}", "Is the disk full or read-only?"
        ) from None
    if as_json:
        print_json({**calibration.as_dict(), "file": str(file)})
    else:
        _print(calibration, file, time.monotonic() - begun)


def _print(calibration: Calibration, file: Path, seconds: float) -> None:
    rows = {
        "context": _size(calibration.context_bytes),
        "with padded batches": _size(calibration.padded_context_bytes),
        "cuBLAS workspace": f"{_size(calibration.cublas_workspace_bytes)} a thread",
        "cublasLt workspace": f"{_size(calibration.cublaslt_workspace_bytes)} a thread",
        "allocator": calibration.allocator,
        "short training": f"{calibration.measured_over_predicted:.4f} x its prediction",
        "driver": calibration.driver,
        "stack": ", ".join(f"{name} {v}" for name, v in calibration.versions.items()),
        "stored in": str(file),
        "took": format_duration(seconds),
    }
    for name, value in rows.items():
        echo(f"{name:<21}{value}")
    for note in calibration.notes:
        echo(f"NOTE  {note}")


def _size(count: int) -> str:
    return f"{format_bytes(count)} ({count:,} B)"
