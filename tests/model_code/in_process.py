"""Reads a module tree without the process that a user's command starts for it."""

from __future__ import annotations

import contextlib
import io
import logging
import subprocess
import sys
from collections.abc import Sequence
from unittest import mock

from vram_search.model_code import __main__ as model_code


def read_in_this_process(
    command: Sequence[str], **options: object
) -> subprocess.CompletedProcess[str]:
    """Stands for `subprocess.run` in `models.tree`; the tests' process has imported torch."""
    output, disabled = io.StringIO(), logging.root.manager.disable
    with mock.patch.object(sys, "argv", command[2:]), contextlib.redirect_stdout(output):
        model_code.main()
    logging.disable(disabled)
    return subprocess.CompletedProcess(command, 0, output.getvalue(), "")
