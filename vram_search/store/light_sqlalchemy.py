"""Imports SQLAlchemy without asyncio and importlib.metadata, which a query does not use.

SQLAlchemy 2.1 imports both at its top (`util/compat.py`, `util/concurrency.py`) and uses them for
asynchronous drivers and for plugins alone. They are a quarter of the CPU time of its import.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any


def _asyncio() -> ModuleType:
    import asyncio

    return asyncio


def _metadata() -> ModuleType:
    from importlib import metadata

    return metadata


def _iscoroutine(candidate: object) -> bool:
    import asyncio

    return asyncio.iscoroutine(candidate)


class _NeverRaised(BaseException):
    """Stands for `asyncio.CancelledError` as long as nobody has imported asyncio."""


_ASYNCIO_KNOWN = {
    "iscoroutine": _iscoroutine,  # `util/concurrency.py` gives it another name
    # Every failed statement is compared with these two. A failure may come from a place where no
    # module can be imported any more: no file may be opened, the libraries may not be read.
    "TimeoutError": TimeoutError,  # the same class since Python 3.11
    "CancelledError": _NeverRaised,
}


class LateModule(ModuleType):
    """Stands for a module until somebody asks for one of its names, and hands these on."""

    def __init__(self, name: str, load: Callable[[], ModuleType], known: Mapping[str, Any]) -> None:
        """Takes the place of a module.

        Args:
            load: imports the module itself.
            known: names that do not need it, as long as nobody else has imported it.
        """
        super().__init__(name)
        self._known = known
        self._load = load
        sys.modules[name] = self
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, self)

    def __getattr__(self, name: str) -> Any:
        if name in self._known and sys.modules.get(self.__name__) in (None, self):
            return self._known[name]
        self.step_aside()
        return getattr(self._load(), name)

    def step_aside(self) -> None:
        """Makes the next import of this name a real one."""
        name = self.__name__
        if sys.modules.get(name) is self:
            del sys.modules[name]
            parent, _, child = name.rpartition(".")
            if parent:
                delattr(sys.modules[parent], child)


@contextlib.contextmanager
def late_modules() -> Iterator[None]:
    """Has the block import a `LateModule` for each of the two that is not imported yet.

    After the block, an import anywhere else gets the module itself.
    """
    late = []
    if "asyncio" not in sys.modules:
        late.append(LateModule("asyncio", _asyncio, _ASYNCIO_KNOWN))
    if "importlib.metadata" not in sys.modules:
        late.append(LateModule("importlib.metadata", _metadata, {}))
    try:
        yield
    finally:
        for module in late:
            module.step_aside()


with late_modules():
    import sqlalchemy.dialects.sqlite  # noqa: F401
