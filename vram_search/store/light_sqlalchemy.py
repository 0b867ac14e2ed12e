"""Imports SQLAlchemy without asyncio and importlib.metadata, which a query does not use.

SQLAlchemy 2.1 imports both at its top (`util/compat.py`, `util/concurrency.py`) and uses them for
asynchronous drivers and for plugins alone. They are a quarter of the CPU time of its import.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
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


class LateModule(ModuleType):
    """Stands for a module until somebody asks for one of its names, and hands these on."""

    def __init__(self, name: str, load: Callable[[], ModuleType], **known: Any) -> None:
        """Takes the place of a module.

        Args:
            load: imports the module itself.
            known: names that do not need it.
        """
        super().__init__(name)
        self.__dict__.update(known)
        self._load = load
        sys.modules[name] = self
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, self)

    def __getattr__(self, name: str) -> Any:
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
    if "asyncio" not in sys.modules:  # `util/concurrency.py` gives `iscoroutine` another name
        late.append(LateModule("asyncio", _asyncio, iscoroutine=_iscoroutine))
    if "importlib.metadata" not in sys.modules:
        late.append(LateModule("importlib.metadata", _metadata))
    try:
        yield
    finally:
        for module in late:
            module.step_aside()


with late_modules():
    import sqlalchemy.dialects.sqlite  # noqa: F401
