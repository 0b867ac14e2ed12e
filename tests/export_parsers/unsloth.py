"""Compares the arguments in files.json with those of Unsloth's functions; run by `export_check.py`.

Importing unsloth fails without a GPU: its source is read. A value's type is compared with that of
the argument's default, which is all that the source says of it.
"""

from __future__ import annotations

import ast
import json
import sys
from importlib.metadata import files as files_of
from pathlib import Path
from typing import Any

import yaml


def arguments(module: str, owner: str, function: str) -> dict[str, Any]:
    """Name -> default, or None where it is no constant."""
    (path,) = [file for file in files_of("unsloth") or () if str(file) == module]
    tree = ast.parse(Path(path.locate()).read_text(encoding="utf-8"))
    classes = [n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == owner]
    (found,) = [n for n in classes[0].body if isinstance(n, ast.FunctionDef) and n.name == function]
    named = found.args.args[len(found.args.args) - len(found.args.defaults) :]
    defaults = [n.value if isinstance(n, ast.Constant) else None for n in found.args.defaults]
    return dict(zip([argument.arg for argument in named], defaults, strict=True))


LOAD = arguments("unsloth/models/loader.py", "FastLanguageModel", "from_pretrained")
ATTACH = arguments("unsloth/models/llama.py", "FastLlamaModel", "get_peft_model")


def fault(file: str) -> str:
    config = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    for part, known in (("model", LOAD), ("lora", ATTACH)):
        for key, value in config[part].items():
            if key not in known:
                return f"{part}.{key}: no such argument"
            default = known[key]
            flexible = default is None or key == "use_gradient_checkpointing"
            if not flexible and not isinstance(value, type(default)):
                return f"{part}.{key}: {value!r} beside a default of {default!r}"
    return ""


files = json.loads(Path("files.json").read_text(encoding="utf-8"))
assert "max_seq_length" in LOAD and "target_modules" in ATTACH, sys.version
Path("answers.json").write_text(json.dumps({file: fault(file) for file in files}))
