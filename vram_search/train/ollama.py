"""Writes a trained adapter as a folder for Ollama: a GGUF file and a Modelfile.

The model is merged first and written by llama.cpp's converter, or here for the families that
`write_gguf` knows. What was written is read back and measured on the study's evaluation rows.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

from vram_search.errors import InputError
from vram_search.protocol import MergeJob, Note, OllamaJob, OllamaWritten, finite
from vram_search.train.device import compute_dtype, device
from vram_search.train.evaluate import Losses, evaluate
from vram_search.train.merge import Send, encoded_eval_rows, folder_bytes, merge
from vram_search.train.ollama_template import check_texts, renderer, turn_texts
from vram_search.train.patches import forget_quantization
from vram_search.train.stop_tokens import stop_tokens
from vram_search.train.tokenizer import adds_begin_token, chat_renderer, load_tokenizer
from vram_search.train.write_gguf import write_gguf

MODEL_FILE = "model.gguf"
MERGED = "merged"


def write_ollama(job: OllamaJob, send: Send) -> OllamaWritten:
    """Writes the files into the job's folder.

    Raises:
        InputError: the model, its tokenizer or its template cannot be written.
    """
    folder = Path(job.merge.target)
    folder.mkdir(exist_ok=True)
    unmeasured = {"target": str(folder / MERGED), "measure": False}
    merge(MergeJob.model_validate({**job.merge.model_dump(), **unmeasured}), send)
    merged = folder / MERGED
    tokenizer = load_tokenizer(str(merged), is_local=True)
    config = AutoConfig.from_pretrained(merged, trust_remote_code=False)
    send(Note(text=f"writing {MODEL_FILE} ({job.kind}) ..."))
    date = job.merge.load.dataset.date
    stops = stop_tokens(tokenizer, date)
    if job.llama_cpp is None:
        end = tokenizer.convert_tokens_to_ids(stops[0])
        write_gguf(merged, config, tokenizer, folder / MODEL_FILE, job.kind, end_token=end)
        written_by = "vram-search with the package gguf"
    else:
        _convert_with_llama_cpp(Path(job.llama_cpp), merged, folder / MODEL_FILE, job.kind)
        written_by = "llama.cpp's convert_hf_to_gguf.py"
    modelfile, notes = modelfile_text(tokenizer, date, stops, job.comments)
    (folder / "Modelfile").write_text(modelfile, encoding="utf-8")
    losses = None
    if job.merge.measure:
        losses = _measure(job.merge, folder, config, send)
        if losses is None:
            notes.append(
                f"transformers reads no GGUF file of the family {config.model_type}: what was "
                "written could not be measured"
            )
    shutil.rmtree(merged)
    return OllamaWritten(
        written_by=written_by,
        kind=job.kind,
        size_bytes=folder_bytes(folder),
        eval_loss=None if losses is None else finite(losses.mean),
        example_loss_sums=() if losses is None else tuple(finite(value) for value in losses.sums),
        dtype=str(compute_dtype()).removeprefix("torch."),
        notes=tuple(notes),
    )


def modelfile_text(
    tokenizer: Any,
    date: str,
    stops: list[str],
    comments: tuple[str, ...],
    sources: tuple[str, ...] = (f"FROM ./{MODEL_FILE}",),
) -> tuple[str, list[str]]:
    """Returns a Modelfile whose template renders as the trained one, and remarks.

    Args:
        sources: lines that name the model, and an adapter if there is one.

    Raises:
        InputError: the chat template cannot be written for Ollama.
    """
    lines = [f"# {' '.join(comment.split())}" for comment in comments] + [*sources]
    if tokenizer.chat_template is None:
        return "\n".join([*lines, 'TEMPLATE """{{ .Prompt }}"""', ""]), [
            "the tokenizer has no chat template: prompts are passed on as they are"
        ]
    render = renderer(chat_renderer(tokenizer, date))
    texts = turn_texts(render)
    remarks = check_texts(texts, render)
    begin = tokenizer.bos_token if adds_begin_token(tokenizer) else None
    template = texts.without_start(begin).go_template()
    lines.append(f'TEMPLATE """{template}"""')
    lines += [f'PARAMETER stop "{stop}"' for stop in stops]
    return "\n".join([*lines, ""]), remarks


def _convert_with_llama_cpp(folder: Path, merged: Path, target: Path, kind: str) -> None:
    """Writes the GGUF file with llama.cpp's own converter.

    Raises:
        InputError: the converter is missing or fails.
    """
    script = folder / "convert_hf_to_gguf.py"
    if not script.is_file():
        raise InputError(f"{folder} holds no {script.name}", "name the folder of llama.cpp")
    command = [sys.executable, str(script), str(merged), "--outfile", str(target)]
    done = subprocess.run(
        [*command, "--outtype", kind],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise InputError(
            f"llama.cpp's converter failed: {last}",
            "it writes bf16, f16 and q8_0, and may need packages: pip install -r "
            "requirements.txt in its folder",
        )


def _measure(job: MergeJob, folder: Path, config: Any, send: Send) -> Losses | None:
    """Evaluates the GGUF file, read back by transformers with the merged model's tokenizer; None if
    transformers reads no such file."""
    if config.model_type not in GGUF_SUPPORTED_ARCHITECTURES:
        return None
    send(Note(text=f"measuring {MODEL_FILE} on the evaluation rows ..."))
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        gguf_file=MODEL_FILE,
        dtype=compute_dtype(),
        config=config,
        trust_remote_code=False,
    )
    forget_quantization(model)
    model.to(device())
    rows, pad_token_id = encoded_eval_rows(job, folder / MERGED)
    return evaluate(model, rows, 1, pad_token_id)
