"""A training's libraries are imported without torch's compiler and without unused packages."""

from __future__ import annotations

import json
import subprocess
import sys

PROGRAM = """
import atexit, gc, json, sys
def at_exit():  # registered first, and therefore called last
    print(json.dumps({**found, "frozen at exit": gc.get_freeze_count() > many}))
atexit.register(at_exit)
from vram_search.model_code.light_imports import light_imports
with light_imports():
    assert not gc.isenabled()
    import torch
    compiler = [n for n in ("torch._dynamo", "torch._inductor.compile_fx") if n in sys.modules]
    import peft, transformers.trainer
    from transformers import LlamaForCausalLM
import bitsandbytes
assert torch.compile.__module__ == "torch", "torch.compile is not put back"
assert bitsandbytes.nn.Linear4bit
many = gc.get_freeze_count()
later = [[] for _ in range(10_000)]
found = {
    "compiler": compiler,
    "unused": [n for n in ("datasets", "scipy", "sklearn") if n in sys.modules],
    "enabled": gc.isenabled(),
    "frozen": many > 100_000,
}
"""


def test_libraries_are_imported_without_compiler_unused_packages_and_collections() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "compiler": [],
        "unused": [],
        "enabled": True,
        "frozen": True,
        "frozen at exit": True,
    }
