"""Asks `trl sft`'s parser about the files in files.json; run by `export_check.py`."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

sys.path.pop(0)  # this folder, where `trl` would be this file

import yaml
from datasets import load_dataset
from trl import get_peft_config, get_quantization_config
from trl.scripts.sft import make_parser

LAYER = "model.layers.0.mlp.down_proj"
COLUMNS = {"prompt", "completion"}


def fault(file: str) -> str:
    config = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    # There is no GPU here, and no fp16 training on a CPU.
    here = {**config, "use_cpu": True, "fp16": False, "bf16": True}
    Path("here.yaml").write_text(yaml.safe_dump(here), encoding="utf-8")
    try:
        script, training, model, _ = make_parser().parse_args_and_config(
            ["--config", "here.yaml"], fail_with_unknown_args=True
        )
        lora, quantization = get_peft_config(model), get_quantization_config(model)
    except (Exception, SystemExit) as error:
        return f"{type(error).__name__}: {error}"[:300]
    for key, value in here.items():
        found = [getattr(part, key) for part in (script, training, model) if hasattr(part, key)]
        if key == "lora_target_modules" and len(value) == 1:
            value = value[0]
        if key != "report_to" and value not in found:
            return f"{key}: {value!r} was read as {found!r}"
    if isinstance(lora.target_modules, str) and lora.target_modules != "all-linear":
        name = lora.target_modules.rpartition(".")[2]
        if not re.fullmatch(lora.target_modules, LAYER.replace("down_proj", name)):
            return f"lora_target_modules: {lora.target_modules!r} matches no layer"
    if not quantization.load_in_4bit or quantization.bnb_4bit_quant_type != "nf4":
        return "not NF4"
    return ""


rows = load_dataset("./trl-rows")
assert {name: len(split) for name, split in rows.items()} == {"train": 20, "test": 5}, rows
assert set(rows["train"].column_names) == COLUMNS, rows
files = json.loads(Path("files.json").read_text(encoding="utf-8"))
Path("answers.json").write_text(json.dumps({file: fault(file) for file in files}))
