"""Writes a trial for `trl sft` of TRL (`SFTConfig`, `ModelConfig`): keys, rows and notes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from vram_search.data import Example
from vram_search.export.evaluation import checkpoint_keys, evaluation_keys
from vram_search.export.launch import Launch
from vram_search.export.tool import Groups, Tool, tokenizers_own
from vram_search.export.training_keys import training_values
from vram_search.export.trial import ExportedTrial
from vram_search.export.trl_schema import check_trl, read_modules
from vram_search.tools import trl as keys

ROWS = "trl-rows"
"""Folder of the rows alone; `datasets` recognises the splits by the file names in it."""


def _config(trial: ExportedTrial) -> Groups:
    hp, plan = trial.hp, trial.plan
    answers_once = _answers_once(trial)
    return {
        "model": {
            "model_name_or_path": trial.model,
            "dtype": trial.dtype,
            "attn_implementation": "sdpa",
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "use_bnb_nested_quant": True,
            "use_liger_kernel": plan.enable_liger_kernel,
            "gradient_checkpointing": plan.gradient_checkpointing,
            "gradient_checkpointing_kwargs": {"use_reentrant": False},
        },
        "method": {
            "use_peft": True,
            "lora_target_modules": _written(trial.target_modules),
            **keys.TRL.written(trial.adapter_settings),
            "lora_task_type": "CAUSAL_LM",
        },
        "dataset": {
            "dataset_name": f"./{ROWS}",
            "dataset_train_split": "train",
            "dataset_test_split": "test",
            "max_length": hp.cutoff_len,
            "truncation_mode": "keep_start",
            "packing": hp.packing,
            **({"packing_strategy": "bfd", "eval_packing": False} if hp.packing else {}),
            "completion_only_loss": answers_once,
            "assistant_only_loss": not answers_once,
        },
        "train": training_values(trial),
        "eval": {
            "per_device_eval_batch_size": plan.per_device_eval_batch_size,
            **evaluation_keys(trial),
        },
        "output": {
            "output_dir": f"saves/{trial.name}.trl",
            **checkpoint_keys(trial),
            "logging_steps": 1,
            "report_to": "none",
        },
    }


def _written(modules: Sequence[str]) -> list[str]:
    """Returns the module names as texts that TRL passes to peft correctly.

    A single name reaches peft as a text, which peft reads as a regular expression for the whole
    path (`ModelConfig.__post_init__`).
    """
    if tuple(modules) == ("all",):
        return ["all-linear"]
    return list(modules) if len(modules) > 1 else [rf".*\.{modules[0]}"]


def _answers_once(trial: ExportedTrial) -> bool:
    """Returns True if no row has an answer before its last message."""
    return all(
        role != "assistant"
        for example in (*trial.rows.train, *trial.rows.eval)
        for role, _ in example.messages[:-1]
    )


def _data_files(trial: ExportedTrial) -> dict[str, str]:
    """Returns rows as prompt and completion, so that the loss begins where the trial's did.

    If a row has several answers, the rows are messages. `datasets` reads `eval` as the split
    `test`.
    """
    answers_once = _answers_once(trial)

    def lines(examples: Sequence[Example]) -> str:
        rows = (
            {
                **(
                    {"prompt": example.turns[:-1], "completion": example.turns[-1:]}
                    if answers_once
                    else {"messages": example.turns}
                ),
                **({"tools": example.tool_list} if example.tools else {}),
            }
            for example in examples
        )
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)

    return {
        f"{ROWS}/train.jsonl": lines(trial.rows.train),
        f"{ROWS}/eval.jsonl": lines(trial.rows.eval),
    }


def _notes(trial: ExportedTrial) -> list[str]:
    notes = [
        "TRL keeps a quantised model's adapter in bf16, the trial in fp32: losses may differ, and",
        "fewer bytes are needed. It calls no prepare_model_for_kbit_training, as in the trial.",
        "Rows longer than max_length lose their end; the trial cut question and answer in",
        "proportion. Evaluation rows are cut at max_length too.",
    ]
    if trial.plan.enable_liger_kernel:
        notes.append("use_liger_kernel needs: pip install liger-kernel")
    else:
        notes.append("TRL never holds all logits at once: it needs less than the bytes above.")
    if not _answers_once(trial):
        notes.append("Rows with several answers: assistant_only_loss needs a chat template that")
        notes.append("marks them; TRL brings its own for the common families.")
    notes += [
        f"TRL has no key for LoRA+: {name} {ratio:g} of the trial is not applied."
        for name, ratio in trial.loraplus.items()
    ]
    if trial.hp.packing:
        notes += [
            "TRL joins rows by another rule (best fit), so that its sequences differ from the",
            "trial's. It lays those of a micro-batch behind each other, and transformers separates",
            "the rows by their positions: with sdpa the mask is larger than in the trial.",
        ]
    notes += trial.initial_weights_note("TRL")
    if trial.wrapper is not None:
        notes.append("TRL has no key for vision and audio towers: lora_target_modules names layers")
        notes.append("of the text part alone, and everything else is frozen.")
    if trial.tokenizer:
        notes.append(f"The study read its tokenizer from {json.dumps(trial.tokenizer)};")
        notes.append("TRL reads the model's own.")
    return notes


def _parse(config: Mapping[str, Any], text: str) -> dict[str, Any]:
    fields = keys.TRL.read(config)
    return {**fields, "lora_target": read_modules(fields["lora_target"])}


TRL = Tool(
    keys=keys.TRL,
    ending=".trl",
    launch=Launch("trl sft --config {file}"),
    config=_config,
    notes=_notes,
    chat_template=tokenizers_own,
    data_files=_data_files,
    # trainer/sft_trainer.py: the head is fused with the loss, in evaluations too
    eval_tokens=lambda trial: None,
    check=check_trl,
    parse=_parse,
)
