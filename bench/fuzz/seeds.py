"""Valid inputs of each reader; the fuzzer changes them."""

from __future__ import annotations

import json
import struct
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from sqlalchemy import Table, insert

from bench.fuzz.mutate import NUMBERS, TEXTS, Files
from bench.tiny import HYPERPARAMETERS, PLAN, TINY_CONFIG
from vram_search.resources import shipped
from vram_search.store import (
    Evaluation,
    StepLoss,
    Store,
    TrialResult,
    open_store,
    sqlite_url,
    tables,
)

FIXTURES = Path(__file__).resolve().parents[2] / "tests" / "fixtures"


def as_yaml(value: Any) -> bytes:
    """A value as a YAML file."""
    return yaml.safe_dump(value, sort_keys=False).encode()


def as_json(value: Any) -> bytes:
    """A value as a JSON file."""
    return json.dumps(value).encode()


def as_lines(rows: list[Any]) -> bytes:
    """Values as JSON lines."""
    return "\n".join(map(json.dumps, rows)).encode()


LLAMA = {
    **TINY_CONFIG,
    "rope_scaling": {"rope_type": "llama3", "factor": 8.0},
    "torch_dtype": "bfloat16",
}
GEMMA = {
    **LLAMA,
    "architectures": ["Gemma2ForCausalLM"],
    "model_type": "gemma2",
    "head_dim": 16,
    "sliding_window": 64,
    "hidden_activation": "gelu_pytorch_tanh",
    "final_logit_softcapping": 30.0,
}
MIXTRAL = {**LLAMA, "model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2}
QUANTISED = {
    **LLAMA,
    "model_type": "qwen2",
    "use_sliding_window": False,
    "layer_types": ["full_attention", "full_attention"],
    "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True},
}
NESTED = {"model_type": "gemma3", "text_config": {**GEMMA, "model_type": "gemma3_text"}}
CONFIGS: list[Files] = [
    {"config.json": as_json(config)} for config in (LLAMA, GEMMA, MIXTRAL, QUANTISED, NESTED)
]

ALPACA = [{"instruction": f"Ask {n}", "input": "", "output": f"Answer {n}"} for n in range(6)]
CHAT = [
    {
        "messages": [
            {"role": "system", "content": "Be short."},
            {"role": "user", "content": [{"type": "text", "text": f"Ask {n}"}]},
            {"role": "assistant", "content": f"Answer {n}", "reasoning_content": "Hm."},
        ]
    }
    for n in range(6)
]
TOOLS = [
    {
        "conversations": [
            {"from": "human", "value": "Weather?"},
            {"from": "function_call", "value": '{"name": "w", "arguments": {"c": 1}}'},
            {"from": "observation", "value": '{"t": 5}'},
            {"from": "gpt", "value": "Cold."},
        ],
        "tools": '[{"name": "w", "parameters": {"type": "object"}}]',
    }
] * 6
TEXT = [{"text": f"Plain text {n}."} for n in range(6)]
HISTORY = [{**row, "history": [["a", "b"]], "system": "s"} for row in ALPACA]
CSV = b"instruction,input,output\n" + b'"Ask",,"Answer"\n' * 6
ROWS: list[Files] = [
    *({"rows.jsonl": as_lines(rows)} for rows in (ALPACA, CHAT, TOOLS, TEXT, HISTORY)),
    {"rows.json": as_json(ALPACA)},
    {"rows.json": as_json({"data": CHAT})},
    {"rows.csv": CSV},
    {"rows.tsv": CSV.replace(b",", b"\t")},
    {"rows.txt": b"First text.\n\nSecond text.\n\nThird.\n"},
]
DATASET_INFO: list[Files] = [
    {
        "dataset_info.json": as_json({"mine": {"file_name": "rows.json"} | more}),
        "rows.json": as_json(rows),
    }
    for rows, more in (
        (ALPACA, {"columns": {"prompt": "instruction", "query": "input", "response": "output"}}),
        (
            TOOLS,
            {
                "formatting": "sharegpt",
                "columns": {"messages": "conversations", "tools": "tools"},
                "tags": {"role_tag": "from", "content_tag": "value", "user_tag": "human"},
            },
        ),
    )
]

STUDY: dict[str, Any] = {
    "study": "fuzzed",
    "model": {"weights": "random", "shape": "shape"},
    "dataset": {"train": "rows.jsonl", "val_size": 2, "template": "auto"},
    "card": "rtx-5060-ti-16gb",
    "search_space": {
        "optim": ["adamw_torch_fused", "adamw_8bit"],
        "lora_target": ["qv", "all", ["q_proj", "k_proj"]],
        "lora_rank": [4, 8],
        "lora_alpha": [8, 16],
        "lora_dropout": [0.0, 0.05],
        "cutoff_len": [96, 128],
        "batch_size": [4],
        "learning_rate": {"min": 1e-4, "max": 1e-2},
    },
    "training": {"max_steps": 6, "rungs": [0.5], "warmup_ratio": 0.1},
    "budget": {"trials": 3},
    "plan": {"enable_liger_kernel": False},
    "strategy": "gp",
    "seed": 1,
}
CARD = {
    "name": "My card",
    "total": "12 GiB",
    "reserve": "0.5 GiB",
    "platform": "linux",
    "compute_capability": "8.9",
}
_STUDY_FILES = {"rows.jsonl": as_lines(ALPACA), "shape/config.json": as_json(LLAMA)}
STUDIES: list[Files] = [
    {"study.yaml": as_yaml(study), "overrides.txt": overrides, **_STUDY_FILES}
    for study, overrides in (
        (STUDY, b"search_space.lora_rank=[8,16]\nbudget.hours=2"),
        (STUDY | {"card": CARD}, b"card=rtx-4060-8gb"),
        (STUDY | {"training": {"epochs": 3, "eval_cutoff_len": 64}}, b"seed=3"),
        (STUDY | {"dataset": [{"path": "rows.jsonl", "type": "alpaca"}]}, b""),
    )
]

LLAMAFACTORY = {
    "model_name_or_path": "Qwen/Qwen2.5-3B-Instruct",
    "stage": "sft",
    "do_train": True,
    "finetuning_type": "lora",
    "lora_rank": 8,
    "lora_target": "q_proj,v_proj",
    "quantization_bit": 4,
    "dataset": "mine",
    "cutoff_len": 512,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 8,
    "learning_rate": 1e-4,
    "optim": "adamw_8bit",
    "bf16": True,
    "flash_attn": "sdpa",
    "seed": 7,
}
AXOLOTL = {
    "base_model": "Qwen/Qwen2.5-1.5B-Instruct",
    "adapter": "qlora",
    "load_in_4bit": True,
    "lora_r": 16,
    "lora_alpha": 32,
    "lora_target_linear": True,
    "lora_target_modules": ["q_proj", "v_proj"],
    "sequence_len": 1024,
    "sample_packing": False,
    "micro_batch_size": 4,
    "gradient_accumulation_steps": 4,
    "gradient_checkpointing": True,
    "optimizer": "paged_adamw_8bit",
    "learning_rate": 0.0002,
    "datasets": [{"path": "mine.jsonl", "type": "alpaca"}],
}
SCRIPT_OF_LLAMAFACTORY = b"""#!/bin/bash
export CUDA_VISIBLE_DEVICES=0
MODEL="Qwen/Qwen2.5-3B-Instruct"
llamafactory-cli train \\
    --model_name_or_path "$MODEL" --stage sft --do_train true --finetuning_type lora \\
    --lora_rank 8 --quantization_bit 4 --cutoff_len 512 --learning_rate 1e-4
"""
SCRIPT_OF_TRL = b"""accelerate launch -m trl sft --model_name_or_path Qwen/Qwen2.5-3B-Instruct \\
  --use_peft --lora_r 8 --load_in_4bit --per_device_train_batch_size 2 --max_length 512
"""
NOTEBOOK = as_json(
    {
        "cells": [
            {"cell_type": "code", "source": ["from unsloth import FastLanguageModel\n"]},
            {"cell_type": "markdown", "source": "# Train"},
        ],
        "metadata": {"kernelspec": {"name": "python3"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
)
RECIPES: list[Files] = [
    {"recipe.yaml": as_yaml(LLAMAFACTORY)},
    {"recipe.yaml": as_yaml(AXOLOTL)},
    {"recipe.json": as_json(LLAMAFACTORY)},
    {"recipe.sh": SCRIPT_OF_LLAMAFACTORY},
    {"recipe.sh": SCRIPT_OF_TRL},
    {"recipe.ipynb": NOTEBOOK},
    {"recipe.py": b"from trl import SFTTrainer, SFTConfig\nSFTTrainer(args=SFTConfig()).train()\n"},
    {"recipe.yaml": as_yaml({"_component_": "torchtune.models.qwen2_5", "epochs": 1})},
    {"recipe.yaml": as_yaml({**AXOLOTL, "chat_template": "qwen3", "rl": "dpo"})},
    {"recipe.yaml": as_yaml(STUDY)},
]

_TRUTH = (FIXTURES / "vram_truth.jsonl").read_text("utf-8").splitlines()
POINTS: list[Files] = [
    {
        "points.jsonl": _TRUTH[number].encode(),
        "qwen2.5-3b/config.json": as_json(QUANTISED),
    }
    for number in range(0, len(_TRUTH), 5)
]

STATE = {
    "global_step": 6,
    "max_steps": 6,
    "train_batch_size": 2,
    "log_history": [
        {"epoch": 0.5, "step": 3, "loss": 2.0, "learning_rate": 1e-4, "grad_norm": 0.5},
        {"epoch": 0.5, "step": 3, "eval_loss": 1.9, "eval_runtime": 3.5},
        {"epoch": 1.0, "step": 6, "train_loss": 1.8, "train_runtime": 60.0, "total_flos": 1e15},
    ],
}
ADAPTER = {
    "base_model_name_or_path": "Qwen/Qwen2.5-3B-Instruct",
    "peft_type": "LORA",
    "r": 8,
    "lora_alpha": 16,
    "target_modules": ["v_proj", "q_proj"],
    "task_type": "CAUSAL_LM",
}
_LOG = [
    {"current_steps": 3, "total_steps": 6, "epoch": 0.5, "loss": 2.0, "lr": 1e-4},
    {"current_steps": 3, "total_steps": 6, "eval_loss": 1.9, "elapsed_time": "0:01:20"},
    {"current_steps": 6, "total_steps": 6, "epoch": 1.0},
]
RUNS: list[Files] = [
    {
        "adapter_config.json": as_json(ADAPTER),
        "trainer_state.json": as_json(STATE),
        "training_args.yaml": as_yaml(LLAMAFACTORY),
        "trainer_log.jsonl": as_lines(_LOG),
        "all_results.json": as_json({"epoch": 1.0, "eval_loss": 1.9, "train_runtime": 60.0}),
    },
    {
        "adapter_config.json": as_json(ADAPTER | {"use_dora": True, "rank_pattern": {"q": 4}}),
        "checkpoint-6/trainer_state.json": as_json(STATE),
        "config.yml": as_yaml(AXOLOTL),
    },
]
TABLES_OF_RUNS: list[Files] = [
    {
        "runs.csv": b"run,outcome,model_name_or_path,eval_loss,steps_done,optim,lora_target,"
        b"lora_rank,cutoff_len,vram_bytes,learning_rate,seed\n"
        b'a,complete,Qwen/Qwen2.5-3B,1.0,51,adamw_8bit,"q_proj,v_proj",8,512,3.1 GB,1e-4,1\n'
        b"b,oom,Qwen/Qwen2.5-3B,,2,adamw_torch_fused,all,4,384,,2e-4,2\n"
    },
    {
        "runs.csv": b"number,state,value,params_learning_rate,params_lora_rank,datetime_start,"
        b"datetime_complete,duration\n"
        b"0,COMPLETE,1.5,0.0001,8,2025-01-01 10:00:00,2025-01-01 10:05:00,0 days 00:05:00\n"
        b"1,PRUNED,,0.001,16,2025-01-01 10:05:00,2025-01-01 10:06:00,0 days 00:01:00\n"
    },
    {
        "runs.csv": b"Name,State,lora_r,learning_rate,eval/loss,train/loss,Runtime,_step\n"
        b"happy-otter-1,finished,8,0.0001,1.2,1.1,300,60\n"
    },
]


def gguf_header() -> Files:
    """A GGUF header with two keys and one tensor (github.com/ggml-org/ggml/docs/gguf.md)."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    head = b"GGUF" + struct.pack("<IQQ", 3, 1, 2)
    head += text("general.architecture") + struct.pack("<I", 8) + text("llama")
    head += text("llama.block_count") + struct.pack("<II", 4, 2)
    tensor = text("token_embd.weight") + struct.pack("<IQQIQ", 2, 32, 2, 0, 0)
    return {"model.gguf": (head + tensor).ljust(256, b"\0") + b"\0" * 256}


_CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + "
    "message['content'] | trim + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
_BLOCKS = (
    "{%- set loop_messages = messages[1:] if messages[0].role == 'system' else messages %}"
    "{{- bos_token }}{%- for m in loop_messages %}{%- if loop.index0 % 2 == 1 and m.role == 'user' "
    "%}{{ raise_exception('roles must alternate') }}{%- endif %}{{ '[' ~ m.role ~ '] ' ~ "
    "m.content }}{%- if m.role == 'assistant' %}{{ eos_token }}{%- endif %}{%- endfor %}"
)
_TOKENS = {
    "bos_token": "<s>",
    "eos_token": {"content": "<|im_end|>", "special": True},
    "added_tokens_decoder": {"1": {"content": "<|im_start|>"}, "2": {"content": "<|im_end|>"}},
}
TEMPLATES: list[Files] = [
    {"tokenizer_config.json": as_json({**_TOKENS, "chat_template": _CHATML})},
    {"tokenizer_config.json": as_json(_TOKENS), "chat_template.jinja": _CHATML.encode()},
    {"tokenizer_config.json": as_json(_TOKENS), "chat_template.jinja": _BLOCKS.encode()},
    *(
        {"tokenizer_config.json": as_json(_TOKENS), "chat_template.jinja": file.read_bytes()}
        for file in sorted(shipped("configs", "templates").glob("*.jinja"))[::9]
    ),
]

EVENTS: list[Files] = [
    {
        "events.jsonl": as_lines(
            [
                {"event": "stage", "stage": "probe", "steps_total": 6},
                {"event": "probed", "allocated_bytes": None, "reserved_bytes": 5, "seconds": 1},
                {
                    "event": "step",
                    "step": 1,
                    "loss": 2.0,
                    "learning_rate": 1e-4,
                    "grad_norm": 1,
                    "seconds": 0.5,
                },
                {"event": "finished", "outcome": "oom", "stage": "train", "step": 1,
                 "steps_total": 6},
            ]
        )
    }
]  # fmt: skip
LOGS: list[Files] = [
    {
        "20260101.jsonl": as_lines(
            [
                {"at": "2026-01-01T00:00:00", "event": "note", "text": "hello"},
                {"at": "2026-01-01T00:00:01", "event": "stage", "text": "trial 0", "trial": 0},
            ]
        )
        + b"\n"
    }
]
UNITS: list[Files] = [
    {"unit.txt": text.encode()} for text in ("12 GiB", "1.5e9", "0", "2 h 10 min", "90 s", "1:30")
]

BYTES = {"required_bytes": 5e9, "allocated_bytes": 4e9, "parts": {"weights": 2e9}, "margin": 0.02}


def write_database(file: Path) -> Path:
    """Writes a study of four trials."""
    spec = {
        **{key: STUDY[key] for key in ("search_space", "training", "budget", "seed", "model")},
        "dataset": {"train": "rows.jsonl"},
        "training": {**STUDY["training"], "lora_alpha_ratio": 2.0},
        "strategies": [[0, "gp"]],
        "identity": {"eval_cutoff_len": 64},
    }
    model = {"name": "a model", "model_name_or_path": "Qwen/Qwen2.5-3B-Instruct"}
    with closing(open_store(sqlite_url(file), create=True)) as store:
        study = store.create_study("demo", spec, "d1", {"title": "a card"}, model)
        for number in range(4):
            point = HYPERPARAMETERS | {"lora_rank": 4 * 2**number}
            trial = store.start_trial(study.id, number, point, seed=1, data_hash="d1")
            store.record_plan(trial, PLAN, BYTES | {"budget_bytes": 8e9, "excess": -0.1})
            losses = [1.0, 2.0 + number]
            store.finish_trial(
                trial,
                TrialResult(
                    "pruned" if number == 1 else "complete",
                    eval_loss=1.0 + number,
                    eval_loss_step=10,
                    measured=BYTES,
                    seconds={"train": 5.0, "eval": 1.0},
                    versions={"torch": "2"},
                    device="a card",
                    steps_done=10,
                    steps_total=10,
                    error={"stage": "train", "message": "stopped"} if number == 1 else None,
                    step_losses=[StepLoss(1, 2.0), StepLoss(2, 1.5)],
                    evaluations=[
                        Evaluation(5, 0.5, 2.0, example_loss_sums=[1.0, 2.0], seconds=1.0),
                        Evaluation(10, 1.0, 1.0 + number, example_loss_sums=losses),
                    ],
                ),
            )
        fill_other_tables(store)
    return file


def fill_other_tables(store: Store) -> None:
    """Gives a row to each table that a search alone leaves empty."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    step = {"step": 1, "loss": 2.0, "learning_rate": None, "grad_norm": None}
    rows: list[tuple[Table, dict[str, Any]]] = [
        (tables.runs, {"study_id": 1, "first_trial": 0, "best_before": 1.5, "started_at": now,
                       "seconds": {"train": 5.0}, "stopped": "the time is over"}),
        (tables.workers, {"study_id": 1, "host": "h", "pid": 1, "device": "a card",
                          "budget_bytes": 5, "started_at": 1e9, "expires_at": 2e9}),
        (tables.untuned, {"study_id": 1, "model": "", "data_hash": "d1", "eval_loss": 3.0,
                          "example_loss_sums": [2.0, 3.0], "seconds": 1.0, "device": "a card",
                          "evaluated_at": now}),
        (tables.samples, {"trial_id": 1, "position": 0, "prompt": "p", "expected": "e",
                          "untuned": "u", "tuned": "t"}),
        (tables.product_runs, {"study_id": 1, "trial_number": 0, "seed": 1, "all_rows": False,
                               "data_hash": "d1", "outcome": "complete", "plan": PLAN,
                               "measured": BYTES, "eval_loss": 1.0, "step_losses": [step],
                               "evaluations": [{"step": 3, "eval_loss": 1.0}], "steps_done": 3,
                               "steps_total": 3, "started_at": now}),
        (tables.queue, {"study": "demo", "position": 1, "state": "queued", "is_detached": True,
                        "study_file": "study: demo", "not_before": now, "until": now,
                        "accept_changes": False, "attempts": 0, "created_at": now}),
        (tables.progress, {"trial_id": 4, "updated_at": now, "stage": "train", "step": 1,
                           "steps_total": 5, "losses": [[1, 2.0]], "evaluations": []}),
        (tables.outbox, {"receiver": "r", "event_id": 1, "attempts": 1, "claimed_at": now}),
    ]  # fmt: skip
    with store.engine.begin() as connection:
        for table, values in rows:
            connection.execute(insert(table).values(**values))


TABLES = {
    table.name: tuple(column.name for column in table.c if column.name != "id")
    for table in tables.metadata.sorted_tables
}
COMMANDS = [
    ["top", "--all"],
    ["top", "--all", "--csv"],
    ["show", "0"],
    ["show", "best", "--json"],
    ["compare", "0", "1"],
    ["best"],
    ["best", "--json"],
    ["pareto"],
    ["importance"],
    ["why", "1"],
    ["studies", "--json"],
    ["next", "--output", "next.yaml"],
    ["report", "--output", "report.html"],
    ["export", "best", "--to", "trl", "--output", "out"],
    ["try", "--like", "0", "lora_rank=8"],
    ["queue"],
    ["queue", "list", "--all"],
    ["samples", "0"],
    ["card", "best", "-o", "card"],
    ["delete", "demo", "--yes"],
    ["db", "backup", "backup.db"],
    ["logs"],
    ["db", "check"],
    ["db", "repair", "--yes"],
    ["db", "export", "tables"],
]


def damages() -> list[Files]:
    """Cells with values that do not belong there, and a command that reads them."""
    values: list[Any] = [*TEXTS, *(n for n in NUMBERS if abs(n) < 2**63), None, HYPERPARAMETERS]
    values += [PLAN, BYTES, {"train": "long"}, [[1]], {"message": 5, "stage": ["x"]}, "{", "[]"]
    cells = [(table, column) for table, columns in TABLES.items() for column in columns]
    return [
        {
            "damage.json": as_json(
                {
                    "cells": [[*cells[(7 * n) % len(cells)], 1 + n % 4, values[n % len(values)]]],
                    "command": COMMANDS[n % len(COMMANDS)],
                }
            )
        }
        for n in range(5 * len(cells))
    ]


_ESTIMATE = {"model": "qwen2.5-3b", "card": "rtx-4090-24gb", "lora_rank": 8, "cutoff_len": 512}
_STUDY_TEXT = {"study_file": as_yaml(STUDY).decode()}
REQUESTS: list[Files] = [
    {"request.json": as_json({"method": method, "path": path, "body": body, "headers": {}})}
    for method, path, body in (
        ("GET", "/api/v1/studies", None),
        ("GET", "/api/v1/studies/demo", None),
        ("GET", "/api/v1/studies/demo/trials?all=true&limit=3", None),
        ("GET", "/api/v1/studies/demo/trials/0", None),
        ("GET", "/api/v1/studies/demo/trials/0/curve", None),
        ("GET", "/api/v1/studies/demo/trials/1/why", None),
        ("GET", "/api/v1/studies/demo/trials/best/export?to=trl", None),
        ("GET", "/api/v1/studies/demo/compare?first=0&second=1", None),
        ("GET", "/api/v1/studies/demo/best?max_vram=8GiB", None),
        ("GET", "/api/v1/studies/demo/pareto", None),
        ("GET", "/api/v1/studies/demo/log?lines=5", None),
        ("GET", "/api/v1/studies/demo/report", None),
        ("POST", "/api/v1/studies/demo/points", {"hyperparameters": {"lora_rank": 8}}),
        ("POST", "/api/v1/studies/validate", _STUDY_TEXT),
        ("POST", "/api/v1/studies/plan", _STUDY_TEXT),
        ("POST", "/api/v1/studies", {**_STUDY_TEXT, "trials": 3, "until": "2026-01-01T07:00"}),
        ("POST", "/api/v1/estimate", _ESTIMATE),
        ("POST", "/api/v1/fit", {"model": "qwen2.5-3b", "card": "rtx-4090-24gb"}),
        ("PUT", "/api/v1/uploads/rows.jsonl", '{"text": "a"}'),
        ("PATCH", "/api/v1/queue/1", {"position": 1}),
        ("POST", "/api/v1/queue/1/move?place=1", None),
        ("GET", "/api/v1/queue?all=true", None),
        ("GET", "/metrics", None),
        ("GET", "/studies/demo", None),
        ("GET", "/studies/demo/trials/0", None),
        ("GET", "/studies/demo/table?sort=eval_loss", None),
        ("GET", "/estimate/answer?model=qwen2.5-3b&card=rtx-4090-24gb&lora_rank=8", None),
        ("GET", "/parts/queue", None),
    )
]
