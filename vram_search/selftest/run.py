"""Runs the checks one after another; what one of them cannot do does not stop the others."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from vram_search.errors import VramSearchError, reason_of
from vram_search.extras import INSTALL, check_training_packages
from vram_search.gpu import GpuReader, NoDriverError, NoGpuError
from vram_search.selftest.card import LIMITS, check_limits, check_nvml
from vram_search.selftest.check import Check, failed, not_possible
from vram_search.selftest.machine import check_clock, check_disk, check_keep_awake
from vram_search.selftest.training import NAMES, check_training

_SERVER_USER = re.compile(r"(?<=://)[^@/\s]+@")


def selftest(
    folder: Path, open_gpu: Callable[[], GpuReader], begin: Callable[[str], None]
) -> Iterator[Check]:
    """Yields each check once it is done.

    Args:
        folder: the data folder.
        open_gpu: opens the reader of the GPU, or raises NoGpuError.
        begin: called with the names of the checks that begin.
    """

    def run(names: Sequence[str], check: Callable[[], Check | list[Check]]) -> list[Check]:
        begin(", ".join(names))
        return _guarded(names, check)

    yield from run(["clock"], check_clock)
    yield from run(["disk"], lambda: check_disk(folder))
    yield from run(["keep_awake"], check_keep_awake)
    reader, refused = _opened(open_gpu)
    if reader is None:
        yield from refused
    else:
        yield from run(["nvml"], partial(check_nvml, reader))
    try:
        check_training_packages()
    except VramSearchError as error:
        names = NAMES if reader is None else (*LIMITS, *NAMES)
        yield from (not_possible(name, error.message, INSTALL) for name in names)
        return
    if reader is not None:
        yield from run(LIMITS, partial(check_limits, reader))
    yield from run(NAMES, partial(check_training, reader))


def _opened(open_gpu: Callable[[], GpuReader]) -> tuple[GpuReader | None, list[Check]]:
    """Returns the reader, or what its absence means for the GPU's checks.

    A missing driver is normal on a CPU-only machine; one that does not work is a failure.
    """
    try:
        return open_gpu(), []
    except NoGpuError as error:
        is_normal = isinstance(error, NoDriverError)
        found = (not_possible if is_normal else failed)("nvml", error.message, error.remedy)
    return None, [found, *(not_possible(name, "no GPU can be read here") for name in LIMITS)]


def _guarded(names: Sequence[str], check: Callable[[], Check | list[Check]]) -> list[Check]:
    """Returns what the check found; its error is a failure of the first of these checks."""
    try:
        found = check()
    except VramSearchError as error:
        checks = [failed(names[0], error.message, error.remedy)]
    except OSError as error:
        place = error.filename or "a file"
        checks = [failed(names[0], f"{place} cannot be used: {reason_of(error)}")]
    else:
        checks = found if isinstance(found, list) else [found]
    done = {one.name for one in checks}
    rest = [name for name in names if name not in done]
    return checks + [not_possible(name, f"the check {names[0]} failed") for name in rest]


def without_home(value: object, home: Path) -> object:
    """Returns JSON data for a public issue: `~` stands for the user's folder, `***` for the user of
    a database server."""
    if isinstance(value, dict):
        return {key: without_home(inner, home) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_home(inner, home) for inner in value]
    if not isinstance(value, str):
        return value
    return _SERVER_USER.sub("***@", value.replace(str(home), "~"))
