"""Trains a trial that vram-search exported: `python train_trial.py <study>-trial-<N>.peft.yaml`.

Needs torch, transformers 5, peft, bitsandbytes and PyYAML; for an `.unsloth.yaml` also unsloth. The
YAML holds the arguments of their functions. Rows go through the tokenizer's chat template, the loss
is on the answers alone.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import torch
import yaml

IGNORED = -100
"""Label of tokens without loss (torch `cross_entropy`, ignore_index)."""

Turns = list[tuple[list[int], list[int]]]
"""Of one row: (what is read, what is learnt) as token ids."""


def main() -> None:
    config = yaml.safe_load(Path(sys.argv[1]).read_text(encoding="utf-8"))
    model = load_unsloth(config) if config["loader"] == "unsloth" else load_peft(config)

    from transformers import AutoTokenizer, Trainer, TrainingArguments

    tokenizer = AutoTokenizer.from_pretrained(config["rows"]["tokenizer"])
    pad_token_id = tokenizer.eos_token_id
    if tokenizer.pad_token_id is not None:
        pad_token_id = tokenizer.pad_token_id
    rows, exam = load_rows(config["rows"], tokenizer)
    arguments = TrainingArguments(
        **config["training"],
        logging_nan_inf_filter=False,
        remove_unused_columns=False,
        use_cpu=not torch.cuda.is_available(),
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=rows,
        eval_dataset=exam,
        data_collator=lambda batch: collate(batch, pad_token_id),
    )
    trainer.train()
    trainer.save_model()
    losses = [log["eval_loss"] for log in trainer.state.log_history if "eval_loss" in log]
    loss = token_loss(trainer, exam)
    print(json.dumps({"eval_loss_by_step": losses, "eval_loss_per_answer_token": loss}))


def load_peft(config: dict[str, Any]) -> Any:
    """The base model in NF4 with a fresh adapter; norms and embeddings stay as they are."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    model = AutoModelForCausalLM.from_pretrained(
        **config["model"],
        quantization_config=BitsAndBytesConfig(**config["quantization"]),
        device_map={"": 0 if torch.cuda.is_available() else "cpu"},
        use_safetensors=True,
    )
    model.requires_grad_(False)
    model.config.use_cache = False
    torch.manual_seed(config["training"]["seed"])
    return get_peft_model(model, LoraConfig(**config["lora"]))


def load_unsloth(config: dict[str, Any]) -> Any:
    """Unsloth has to be imported before transformers, which it patches."""
    from unsloth import FastLanguageModel

    arguments = config["model"]
    dtype = getattr(torch, arguments["dtype"])
    model, _ = FastLanguageModel.from_pretrained(**{**arguments, "dtype": dtype})
    return FastLanguageModel.get_peft_model(model, **config["lora"])


def load_rows(
    rows: dict[str, Any], tokenizer: Any
) -> tuple[list[dict[str, list[int]]], list[dict[str, list[int]]]]:
    """Training and evaluation rows, each cut at its own length."""

    def read(name: str, cutoff_len: int) -> list[dict[str, list[int]]]:
        loaded = json.loads(Path(name).read_text(encoding="utf-8"))
        return [cut(encode(row["messages"], tokenizer), cutoff_len) for row in loaded]

    return read(rows["train"], rows["cutoff_len"]), read(rows["eval"], rows["eval_cutoff_len"])


def encode(messages: list[dict[str, str]], tokenizer: Any) -> Turns:
    """Question and answer tokenised apart, so that no token spans the border of the loss."""
    turns: Turns = []
    done = ""
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = tokenizer.apply_chat_template(
            messages[:index], tokenize=False, add_generation_prompt=True
        )
        after = tokenizer.apply_chat_template(messages[: index + 1], tokenize=False)
        if not before.startswith(done) or not after.startswith(before):
            sys.exit("the chat template rewrites earlier turns: no border of the loss can be found")
        turns.append((ids(tokenizer, before[len(done) :]), ids(tokenizer, after[len(before) :])))
        done = after
    return turns


def ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def cut(turns: Turns, cutoff_len: int) -> dict[str, list[int]]:
    """At most `cutoff_len` tokens; source and target shortened in proportion, turn by turn
    (LLaMA-Factory `data/processor/processor_utils.py`, `infer_seqlen`)."""
    input_ids: list[int] = []
    labels: list[int] = []
    for source, target in turns:
        room = cutoff_len - len(input_ids)
        if room <= 0:
            break
        if len(target) * 2 < room:
            most = room
        elif len(source) * 2 < room:
            most = room - len(source)
        else:
            most = int(room * (len(target) / (len(source) + len(target))))
        kept = min(most, len(target))
        read = min(max(room - kept, 0), len(source))
        input_ids += source[:read] + target[:kept]
        labels += [IGNORED] * read + target[:kept]
    return {"input_ids": input_ids, "labels": labels}


def collate(batch: list[dict[str, list[int]]], pad_token_id: int) -> dict[str, torch.Tensor]:
    """Padded on the right to the longest row: int64 tensors of (rows, tokens)."""
    longest = max(len(row["input_ids"]) for row in batch)

    def padded(values: list[int], filler: int) -> list[int]:
        return values + [filler] * (longest - len(values))

    return {
        "input_ids": torch.tensor([padded(row["input_ids"], pad_token_id) for row in batch]),
        "attention_mask": torch.tensor([padded([1] * len(row["input_ids"]), 0) for row in batch]),
        "labels": torch.tensor([padded(row["labels"], IGNORED) for row in batch]),
    }


def token_loss(trainer: Any, exam: list[dict[str, list[int]]]) -> float:
    """Nats per answer token, as the study counts; Trainer's own figure averages over batches."""
    total, tokens = 0.0, 0
    for batch in trainer.get_eval_dataloader(exam):
        answers = int((batch["labels"][:, 1:] != IGNORED).sum())
        loss, _, _ = trainer.prediction_step(trainer.model, batch, prediction_loss_only=True)
        total, tokens = total + float(loss) * answers, tokens + answers
    return total / tokens if tokens else math.nan


if __name__ == "__main__":
    main()
