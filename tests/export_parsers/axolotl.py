"""Asks Axolotl's `validate_config` about the files in files.json; run by `export_check.py`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.pop(0)  # this folder, where `axolotl` would be this file

import yaml
from axolotl.utils.config import prepare_plugins, validate_config
from axolotl.utils.dict import DictDefault

CARD = {"bf16": True, "fp8": False, "tf32": True, "n_gpu": 1, "compute_capability": "sm_89"}


def fault(file: str) -> str:
    config = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    try:
        given = DictDefault(config)
        prepare_plugins(given)
        read = validate_config(given, CARD, {"torch_version": "2.13.0"}).to_dict()
    except (Exception, SystemExit) as error:
        return f"{type(error).__name__}: {error}"[:300]
    for key in config:
        # Axolotl drops what it does not know without a word.
        if key not in read:
            return f"{key}: dropped"
        if key not in ("datasets", "test_datasets") and read[key] != config[key]:
            return f"{key}: {config[key]!r} was read as {read[key]!r}"
    for key in ("datasets", "test_datasets"):
        kept = {name: read[key][0].get(name) for name in config[key][0]}
        if kept != config[key][0]:
            return f"{key}: {config[key][0]!r} was read as {kept!r}"
    return ""


files = json.loads(Path("files.json").read_text(encoding="utf-8"))
Path("answers.json").write_text(json.dumps({file: fault(file) for file in files}))
