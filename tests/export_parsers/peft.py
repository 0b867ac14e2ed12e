"""Hands the arguments in files.json to the classes they are for; run by `export_check.py`."""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path

sys.path.pop(0)  # this folder, where `peft` would be this file

import yaml
from peft import LoraConfig
from transformers import BitsAndBytesConfig, TrainingArguments


def fault(file: str) -> str:
    config = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    written = config["training"]
    # There is no GPU here, no fp16 training on a CPU, and liger-kernel is not installed.
    here = {**written, "use_cpu": True, "fp16": False, "bf16": True, "use_liger_kernel": False}
    try:
        training = TrainingArguments(**here)
        LoraConfig(**config["lora"])
        BitsAndBytesConfig(**config["quantization"])
    except (Exception, SystemExit) as error:
        return f"{type(error).__name__}: {error}"[:300]
    for key, value in here.items():
        if key != "report_to" and getattr(training, key) != value:
            return f"{key}: {value!r} was read as {getattr(training, key)!r}"
    unknown = set(written) - set(inspect.signature(TrainingArguments).parameters)
    return f"unknown: {unknown}" if unknown else ""


files = json.loads(Path("files.json").read_text(encoding="utf-8"))
Path("answers.json").write_text(json.dumps({file: fault(file) for file in files}))
