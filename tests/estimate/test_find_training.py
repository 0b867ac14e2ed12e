"""The training that a script, notebook, Dockerfile or job starts is found and read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from vram_search.answers.training_file import is_recipe
from vram_search.errors import InputError
from vram_search.estimate.recipes.load import load_recipe

FLAGS = "--model_name_or_path Qwen/Qwen2.5-0.5B --do_train --quantization_bit 4 --cutoff_len 64"
NOTEBOOK = {
    "cells": [
        {"cell_type": "code", "source": ["RANK = 4\n", "print('trl sft --config no.yaml')"]},
        {
            "cell_type": "code",
            "source": "%%writefile cfg.yaml\ncutoff_len: 64\nquantization_bit: 4",
        },
        {
            "cell_type": "code",
            "source": "!llamafactory-cli train cfg.yaml \\\n"
            " model_name_or_path=qwen2.5-0.5b stage=sft lora_rank={RANK}",
        },
    ]
}
COMMENTED = """[{ // https://x.y/z
  "model_name_or_path": "qwen2.5-0.5b", # small
  "dataset": "a//b, }", "lora_rank": 4, /* of
  two lines */ "cutoff_len": 64, "quantization_bit": 4,
},]
"""
CELL = """import json
args = dict(
    model_name_or_path="qwen2.5-0.5b", lora_rank=4, cutoff_len=64, quantization_bit=4, bf16=f()
)
json.dump(args, open("train.json", "w"))
!llamafactory-cli train train.json
"""
WRITES = """cat > cfg.yaml <<EOF
model_name_or_path: qwen2.5-0.5b
quantization_bit: 4
cutoff_len: 2048
lora_rank: 4
EOF
llamafactory-cli train cfg.yaml cutoff_len=64
"""


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.sh", f"/opt/bin/llamafactory-cli train {FLAGS} --lora_rank 4"),
        ("a.sh", f"R=${{1:-4}}\nbash -c 'python -m llamafactory.cli train {FLAGS} --lora_rank $R'"),
        ("a.sbatch", f"#SBATCH -n 1\nsrun llamafactory-cli train {FLAGS} \\ \n --lora_rank 4"),
        ("a.txt", f"llamafactory-cli train {FLAGS} --lora_rank 4"),
        ("a.bat", f"@echo off\r\nset R=4\r\nlmf train ^\r\n {FLAGS} ^ \r\n --lora_rank %R%\r\n"),
        ("a.ps1", f'$R = "4"\r\nllamafactory-cli.exe train `\r\n {FLAGS} --lora_rank $R\r\n'),
        ("Dockerfile", f"FROM x\nENV R=4\nCMD llamafactory-cli train {FLAGS} \\\n --lora_rank $R"),
        ("a.sh", WRITES),
        ("a.sh", "F=a.yaml\n" + WRITES.replace("cfg.yaml", '"$F"')),
        ("a.ipynb", json.dumps(NOTEBOOK)),
        ("a.ipynb", json.dumps({"cells": [{"cell_type": "code", "source": CELL}]})),
        ("a.jsonc", COMMENTED),
        ("a.sh", f"cat > a.json <<EOF\n{COMMENTED.strip()[1:-2]}\nEOF\nlmf train a.json"),
        (
            "CFG.YML",
            "model_name_or_path: qwen2.5-0.5b\nquantization_bit: 4\n"
            + "cutoff_len: 64\nlora_rank: 4",
        ),
    ],
)
def test_a_training_is_read_wherever_it_is_started(tmp_path: Path, name: str, text: str) -> None:
    file = tmp_path / name
    file.write_bytes(text.encode())
    assert is_recipe(file)
    recipe = load_recipe(file)
    assert (recipe.source, recipe.workload.shape.vocab_size) == ("llamafactory", 151_936)
    assert (recipe.workload.cutoff_len, recipe.workload.lora_rank) == (64, 4)
    assert recipe.workload.quantization == "nf4"


def test_a_script_is_followed_to_the_file_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "config.yml"
    keys = {
        "base_model": "qwen2.5-0.5b",
        "adapter": "lora",
        "lora_r": 4,
        "lora_target_linear": True,
    }
    file.write_text(yaml.safe_dump({**keys, "micro_batch_size": 1, "sequence_len": 64}))
    script = tmp_path / "run.sh"
    script.write_text(f"axolotl train --launcher torchrun x/{file.name} --micro-batch-size 3")
    recipe = load_recipe(script)
    assert recipe.workload.per_device_train_batch_size == 3
    assert recipe.notes[0].endswith("starts Axolotl with it; the command sets micro_batch_size")
    file.unlink()
    with pytest.raises(InputError, match="starts Axolotl with") as caught:
        load_recipe(script)
    assert caught.value.remedy.endswith("the command changes micro_batch_size in it")


def test_a_command_tells_the_kind_of_training(tmp_path: Path) -> None:
    script = tmp_path / "run.sh"
    for command, objective in (
        (
            "python examples/scripts/dpo.py --model_name qwen2.5-0.5b --use_peft",
            "trl dpo in chunks",
        ),
        ("python src/train_rm.py --model_name_or_path qwen2.5-0.5b", "llamafactory rm"),
    ):
        script.write_text(command)
        assert load_recipe(script).workload.objective == objective
    script.write_text(f"accelerate launch --config_file a/zero3.yaml {command}")
    assert load_recipe(script).needs_less[0].startswith("deepspeed: 'a/zero3.yaml'")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.sh", "axolotl train", "starts Axolotl without a training file"),
        (
            "a.ps1",
            "llamafactory-cli train $File",
            r"a PowerShell script that starts LLaMA-Factory wit",
        ),
        (
            "Dockerfile",
            'CMD ["axolotl", "train", "/c.yml"]',
            "a Dockerfile that starts Axolotl with",
        ),
        ("job.yaml", "run: |\n  axolotl train /c.yml", "a file that starts Axolotl with /c.yml"),
        (
            "c.yaml",
            "services: {a: {command: [trl, sft, --config, x.yml]}}",
            "starts TRL with x.yml",
        ),
        ("a.sh", "echo run axolotl train x.yaml", "starts no training that is known"),
        ("a.sh", "cd /opt/autotrain", "starts no training that is known"),
    ],
)
def test_a_training_that_is_not_there_is_named(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    file = tmp_path / name
    file.write_text(text)
    assert is_recipe(file)
    with pytest.raises(InputError, match=message) as caught:
        load_recipe(file)
    assert caught.value.remedy
