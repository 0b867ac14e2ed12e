"""Asks LLaMA-Factory's `get_train_args` about the files in files.json; run by `export_check.py`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.pop(0)  # this folder, where `llamafactory` would be this file

import llamafactory.hparams.parser as parser
from omegaconf import OmegaConf

parser._check_extra_dependencies = lambda *arguments: None  # liger-kernel is not installed here


def fault(file: str) -> str:
    written = OmegaConf.to_container(OmegaConf.load(file))
    config = {key: value for key, value in written.items() if key not in ("bf16", "fp16")}
    try:
        read = parser.get_train_args({**config, "use_cpu": True})  # there is no GPU here
    except (Exception, SystemExit) as error:
        return f"{type(error).__name__}: {error}"[:300]
    for key, value in config.items():
        found = [getattr(part, key) for part in read if hasattr(part, key)]
        if key == "lora_target" and value != "all":
            value = value.split(",")
        if key in ("dataset", "eval_dataset"):
            value = [value]
        if key in ("report_to", "lora_target") and isinstance(value, str):
            found += [item for part in found if isinstance(part, list) for item in part]
        if key == "report_to":
            continue  # "none" becomes an empty list
        if value not in found:
            return f"{key}: {value!r} was read as {found!r}"
    return ""


files = json.loads(Path("files.json").read_text(encoding="utf-8"))
Path("answers.json").write_text(json.dumps({file: fault(file) for file in files}))
