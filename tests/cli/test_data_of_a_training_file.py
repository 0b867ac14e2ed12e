"""`vram-search data` takes a training file, and lists empty answers apart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vram_search.answers.data import data_answer
from vram_search.answers.named_rows import load_named_rows
from vram_search.errors import InputError
from vram_search.spec.dataset import DatasetSpec

ROWS = [{"instruction": f"ask {n}", "output": "" if n in (3, 5) else f"say {n}"} for n in range(20)]
LLAMA_FACTORY = """\
model_name_or_path: org/model
stage: sft
finetuning_type: lora
dataset: mine
template: {template}
cutoff_len: 512
max_samples: 10
val_size: 0.2
seed: 7
"""
AXOLOTL = """\
base_model: org/model
adapter: lora
sequence_len: 1024
chat_template: llama3
val_set_size: 0.1
datasets:
  - path: data/rows.json
    type: alpaca
"""
TRL = """\
model_name_or_path: org/model
dataset_name: data/rows.json
max_length: 256
use_peft: true
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    data = tmp_path / "data"
    data.mkdir()
    (data / "rows.json").write_text(json.dumps(ROWS))
    (data / "dataset_info.json").write_text(json.dumps({"mine": {"file_name": "rows.json"}}))
    return tmp_path


def write(folder: Path, text: str) -> Path:
    file = folder / "training.yaml"
    file.write_text(text)
    return file


def test_llamafactory_file_names_its_data_set_template_and_cutoff(folder: Path) -> None:
    named = load_named_rows(write(folder, LLAMA_FACTORY.format(template="qwen")))
    assert named.dataset.dataset_dir == str(folder / "data")
    assert (named.dataset.train, named.dataset.template) == ("mine", "qwen")
    assert (named.dataset.max_samples, named.dataset.val_size) == (10, 0.2)
    assert (named.seed, named.tokenizer, named.cutoff_lens) == (7, "org/model", (512,))
    assert named.notes == ()


def test_template_that_is_not_shipped_is_noted(folder: Path) -> None:
    named = load_named_rows(write(folder, LLAMA_FACTORY.format(template="bailing_v2")))
    assert named.dataset.template is None
    assert "bailing_v2 is not shipped" in named.notes[0]


def test_axolotl_and_trl_files_name_their_rows(folder: Path) -> None:
    axolotl = load_named_rows(write(folder, AXOLOTL))
    assert axolotl.dataset.template == "llama3"
    assert axolotl.cutoff_lens == (1024,)
    trl = load_named_rows(write(folder, TRL))
    assert trl.cutoff_lens == (256,)
    for named in (axolotl, trl):
        answer = data_answer(named.dataset, named.seed, None)
        assert (answer.train_rows + answer.eval_rows, answer.name) == (18, "rows.json")


def test_empty_answers_are_counted_apart(folder: Path) -> None:
    rows = [*ROWS, {"instruction": "", "output": "x"}]
    talk = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": " "}]}
    (folder / "data" / "rows.json").write_text(json.dumps([*rows, talk]))
    text = AXOLOTL.replace("    type: alpaca\n", "")
    answer = data_answer(load_named_rows(write(folder, text)).dataset, 1, None)
    assert (answer.bad_rows, answer.empty_answers) == (4, 3)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (LLAMA_FACTORY.format(template="qwen").replace("sft", "dpo"), "stage dpo"),
        (LLAMA_FACTORY.format(template="qwen").replace("dataset: mine\n", ""), "no training rows"),
        (AXOLOTL + "rl: dpo\n", "rl dpo"),
        (AXOLOTL.replace("rows.json", "gone.json"), "no such file"),
        (TRL.replace("dataset_name: data/rows.json\n", ""), "no training rows"),
        ("model: {_component_: torchtune.models}\n", "file of torchtune"),
    ],
)
def test_file_without_rows_to_learn_is_refused(folder: Path, text: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        load_named_rows(write(folder, text))
    assert caught.value.remedy


def test_calls_thoughts_and_unlearnt_answers_are_shown_without_a_tokenizer(tmp_path: Path) -> None:
    call = {"function": {"name": "add", "arguments": "{}"}}
    row = {
        "messages": [
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": "two", "weight": 0},
            {"role": "user", "content": "three"},
            {"role": "assistant", "content": None, "reasoning_content": "hm", "tool_calls": [call]},
        ]
    }
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join([json.dumps(row)] * 4), encoding="utf-8")
    dataset = DatasetSpec.model_validate({"train": str(file)}, context={"folder": tmp_path})
    pieces = data_answer(dataset, 1, None, shown=1).shown[0]
    assert [piece.is_learnt for piece in pieces] == [False, False, False, True]
    assert pieces[-1].text.startswith("assistant: hm ")
    assert '"add"' in pieces[-1].text
