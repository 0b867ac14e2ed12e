"""The script of a peft export trains what the trial trained: same rows, same losses."""

from __future__ import annotations

import ast
import importlib.util
import json
import runpy
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from vram_search.data import Example, Rows
from vram_search.data.example import example_of
from vram_search.export import write_export
from vram_search.export.chat_rows import CHAT_ROWS, chat_rows_script
from vram_search.export.dataset import message_files
from vram_search.protocol import LoadJob, TrialJob
from vram_search.resources import shipped
from vram_search.store import StudyRecord, TrialRecord
from vram_search.train import examples
from vram_search.train import model as base_model
from vram_search.train import trainer as trainer_module
from vram_search.train.tokenizer import byte_tokenizer
from vram_search.train.trainer import make_trainer

STEPS = 3
CONFIG = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    file = shipped("configs", "export", "train_trial.py")
    spec = importlib.util.spec_from_file_location("train_trial", file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder = tmp_path_factory.mktemp("export")
    (folder / CHAT_ROWS).write_text(chat_rows_script())
    sys.path.insert(0, str(folder))
    yield module
    sys.path.remove(str(folder))
    sys.modules.pop("chat_rows", None)


tokens = st.lists(st.integers(0, 9), max_size=12)
written = st.lists(st.integers(0, 9), min_size=1, max_size=12)  # a chat template writes something
turns = st.lists(st.tuples(written, tokens), min_size=1, max_size=3)


@given(rows=st.lists(turns, min_size=1, max_size=3), cutoff_len=st.integers(1, 30))
def test_rows_are_cut_and_padded_as_in_the_trial(
    script: ModuleType, rows: list[list[tuple[list[int], list[int]]]], cutoff_len: int
) -> None:
    ours = [
        examples.cut(
            examples.EncodedExample(
                tuple((tuple(source), tuple(target)) for source, target in row)
            ),
            cutoff_len,
        )
        for row in rows
    ]
    theirs = [script.cut(row, cutoff_len) for row in rows]
    assert [(row["input_ids"], row["labels"]) for row in theirs] == [
        (list(row.input_ids), list(row.labels)) for row in ours
    ]
    batch, expected = script.collate(theirs, 5), examples.collate(ours, 5)
    assert all(batch[name].equal(expected[name]) for name in expected)


CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {}}}]
CONVERSATIONS = [
    example_of([("system", "Be kind.", {}), ("user", "One?", {}), ("assistant", "1", {})]),
    example_of(
        [
            ("user", "One?", {}),
            ("assistant", "1", {"reasoning_content": "Easy."}),
            ("user", "Two?", {}),
            ("assistant", "2", {"reasoning_content": "Easier."}),
        ]
    ),
    example_of(
        [
            ("user", "1 + 1?", {}),
            ("assistant", "", {"tool_calls": [CALL]}),
            ("tool", "2", {"name": "add"}),
            ("assistant", "It is 2.", {}),
        ],
        TOOLS,
    ),
]
REWRITES_EARLIER_TURNS = (
    "{{ strftime_now('%d %B %Y') }}{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.parametrize("template", [None, REWRITES_EARLIER_TURNS])
def test_rows_are_encoded_as_in_the_trial(
    script: ModuleType, rows: Rows, template: str | None
) -> None:
    tokenizer, date = byte_tokenizer(), "2024-05-01"
    if template is not None:
        tokenizer.chat_template = template
    encode, encoder = script.encoder(tokenizer, date), examples.Encoder(tokenizer, date)
    for row in (*rows.train, *CONVERSATIONS):
        (line,) = json.loads(message_files(Rows((row,), (), "d"))["train.json"])
        turns = tuple((tuple(s), tuple(t)) for s, t in encode(line))
        assert turns == encoder.encode(row).turns


def test_modules_of_the_script_define_no_name_twice() -> None:
    names = [
        node.name
        for node in ast.parse(chat_rows_script()).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    ]
    assert len(names) == len(set(names))
    assert "vram_search" not in chat_rows_script()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A tiny Llama with random weights and the byte tokenizer, as a folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    folder = tmp_path / "model"
    LlamaForCausalLM(LlamaConfig(**CONFIG)).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def trained_here(model: Path, study: StudyRecord, trial: TrialRecord, rows: Rows) -> list[float]:
    """What the training room logs."""
    dataset = study.spec["dataset"]
    load = LoadJob(
        model_name_or_path=str(model),
        random_weights=False,
        tokenizer=str(model),
        dataset=dataset,
        seed=trial.seed,
        cutoff_lens=(64,),
        eval_cutoff_len=64,
    )
    job = TrialJob.model_validate(
        {
            "number": trial.number,
            "hyperparameters": trial.hyperparameters,
            "target_modules": ("q_proj", "v_proj"),
            "plan": trial.plan,
            "training": study.spec["training"],
            "eval_cutoff_len": 64,
            "seed": trial.seed,
            "adapter_folder": "unused",
        }
    )
    tokenizer = byte_tokenizer()
    cut = [examples.cut(examples.encode(row, tokenizer), 64) for row in rows.train]
    adapted = base_model.attach_adapter(base_model.load_base(load), job)
    trainer = make_trainer(
        adapted,
        job,
        job.plan,
        cut,
        steps=STEPS,
        horizon=STEPS,
        pad_token_id=tokenizer.pad_token_id,
        callbacks=[],
    )
    trainer.train()
    return logged(trainer.state.log_history)


def logged(history: list[dict[str, float]]) -> list[float]:
    """Losses and gradient norms; the latter tell one adapter's random weights from another's."""
    return [log[name] for log in history if "loss" in log for name in ("loss", "grad_norm")]


def test_a_peft_export_trains_to_the_losses_of_the_trial(
    model: Path,
    study: StudyRecord,
    trial: TrialRecord,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # The export trains in bf16, as the GPU's trials do; a CPU's trials may train in float32.
    for module in (base_model, trainer_module):
        monkeypatch.setattr(module, "compute_dtype", lambda: torch.bfloat16)

    def ask(number: int) -> Example:
        question = f"What is {number} + {number}, if you please?"
        return Example((("user", question), ("assistant", f"It is {2 * number}.")))

    rows = Rows(tuple(ask(n) for n in range(16)), tuple(ask(n) for n in range(16, 19)), "d1")
    local = study.spec["model"] | {"model_name_or_path": str(model)}
    study = replace(study, spec=study.spec | {"model": local})
    assert trial.plan is not None
    trial = replace(
        trial,
        steps_total=STEPS,
        eval_loss_step=STEPS,
        hyperparameters=trial.hyperparameters | {"cutoff_len": 64, "optim": "adamw_torch"},
        plan=trial.plan | {"gradient_accumulation_steps": 2},
    )
    trial = replace(trial, hyperparameters=trial.hyperparameters | {"batch_size": 4})
    paths = write_export(study, trial, rows, tmp_path / "out", to="peft")
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_VERBOSITY"):
        monkeypatch.setenv(name, "1")
    monkeypatch.chdir(paths[0].parent)
    monkeypatch.syspath_prepend(paths[0].parent)
    monkeypatch.delitem(sys.modules, CHAT_ROWS.removesuffix(".py"), raising=False)
    monkeypatch.setattr(sys, "argv", ["train_trial.py", paths[0].name])
    runpy.run_path("train_trial.py", run_name="__main__")
    said: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said["eval_loss_per_answer_token"] > 0
    output = paths[0].parent / yaml.safe_load(paths[0].read_text())["training"]["output_dir"]
    assert (output / "adapter_model.safetensors").is_file()
    state = json.loads((output / f"checkpoint-{STEPS}" / "trainer_state.json").read_text())
    found = logged(state["log_history"])
    assert len(found) == 2 * STEPS
    assert found == pytest.approx(trained_here(model, study, trial, rows), abs=1e-3)
