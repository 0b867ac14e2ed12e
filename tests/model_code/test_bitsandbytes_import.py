"""bitsandbytes is imported without the compiler of torch."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
from vram_search.model_code.bitsandbytes_import import import_bitsandbytes
import_bitsandbytes()
import bitsandbytes, torch
assert torch.compile.__module__ == "torch", "torch.compile is not put back"
assert bitsandbytes.nn.Linear4bit
print([name for name in ("torch._dynamo", "torch._inductor.compile_fx") if name in sys.modules])
"""


def test_bitsandbytes_is_imported_without_the_compiler() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr
