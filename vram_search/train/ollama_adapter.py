"""Writes a trained adapter for Ollama without merging it: the adapter as a GGUF file, a Modelfile
with an ADAPTER line, and the base model as a GGUF file unless Ollama has it.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoModelForCausalLM

from vram_search.protocol import GgufAdapterJob, MergeJob, Note, OllamaWritten, finite
from vram_search.train.adapter_weights import AdapterWeights
from vram_search.train.device import compute_dtype, device
from vram_search.train.evaluate import Losses, evaluate
from vram_search.train.gguf_adapter import read_changes, write_gguf_adapter
from vram_search.train.merge import (
    Send,
    encoded_eval_rows,
    folder_bytes,
    refuse_quantized,
)
from vram_search.train.ollama import MODEL_FILE, modelfile_text
from vram_search.train.stop_tokens import stop_tokens
from vram_search.train.tokenizer import load_tokenizer
from vram_search.train.write_gguf import write_gguf

ADAPTER_FILE = "adapter.gguf"
TOKENIZER = "tokenizer"


def write_ollama_adapter(job: GgufAdapterJob, send: Send) -> OllamaWritten:
    """Writes the files into the job's folder.

    Raises:
        InputError: the adapter, the base, its tokenizer or its template cannot be written.
    """
    folder = Path(job.merge.target)
    folder.mkdir(exist_ok=True)
    load = job.merge.load
    name = load.model_name_or_path
    config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    refuse_quantized(config, name)
    adapter = AdapterWeights(Path(job.merge.adapter_folder))
    send(Note(text=f"writing {ADAPTER_FILE} ..."))
    write_gguf_adapter(adapter, config, folder / ADAPTER_FILE)
    tokenizer = load_tokenizer(load.tokenizer, load.dataset.template)
    stops = stop_tokens(tokenizer, load.dataset.date)
    if job.ollama_base is None:
        send(Note(text=f"writing the base model: {MODEL_FILE} ({job.kind}) ..."))
        end = tokenizer.convert_tokens_to_ids(stops[0])
        write_gguf(Path(name), config, tokenizer, folder / MODEL_FILE, job.kind, end_token=end)
    base = job.ollama_base or f"./{MODEL_FILE}"
    sources = (f"FROM {base}", f"ADAPTER ./{ADAPTER_FILE}")
    modelfile, notes = modelfile_text(tokenizer, load.dataset.date, stops, job.comments, sources)
    (folder / "Modelfile").write_text(modelfile, encoding="utf-8")
    if job.ollama_base is not None:
        notes.append(f"the adapter fits {job.ollama_base} only if that was made of the same base")
    losses = None
    if job.merge.measure:
        send(Note(text=f"measuring the base with {ADAPTER_FILE} on the evaluation rows ..."))
        tokenizer.save_pretrained(folder / TOKENIZER)
        losses = _measure(job.merge, folder, adapter, config)
        shutil.rmtree(folder / TOKENIZER)
    return OllamaWritten(
        written_by="vram-search with the package gguf",
        kind="adapter",
        size_bytes=folder_bytes(folder),
        eval_loss=None if losses is None else finite(losses.mean),
        example_loss_sums=() if losses is None else tuple(finite(value) for value in losses.sums),
        dtype=str(compute_dtype()).removeprefix("torch."),
        notes=tuple(notes),
    )


def _measure(job: MergeJob, folder: Path, adapter: AdapterWeights, config: Any) -> Losses:
    """Evaluates the base in 16 bits with the changes that the written file makes."""
    name = job.load.model_name_or_path
    model = AutoModelForCausalLM.from_pretrained(
        name, dtype=compute_dtype(), trust_remote_code=False
    )
    for module, change in read_changes(folder / ADAPTER_FILE, adapter, config):
        weight = model.get_submodule(module).weight.data
        weight.copy_(weight.float() + change)
    model.to(device())
    rows, pad_token_id = encoded_eval_rows(job, folder / TOKENIZER)
    return evaluate(model, rows, 1, pad_token_id)
