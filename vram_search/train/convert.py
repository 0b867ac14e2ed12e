"""Turns a trained adapter into a model that runs: `python -m vram_search.train.convert JOB.json`.

It answers with one JSON object per line on standard output: notes, then the result.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

from vram_search.errors import VramSearchError, is_full_disk
from vram_search.model_code.light_imports import light_imports
from vram_search.protocol import (
    CONVERT_JOB,
    AnyConvertJob,
    Converted,
    GgufAdapterJob,
    LoadFailed,
    MergeJob,
    Note,
    OllamaJob,
)
from vram_search.train.channel import silence_libraries


def main(file: Path) -> None:
    """Does the job in `file`; an error that the user can fix becomes a LoadFailed."""
    out = sys.stdout
    sys.stdout = sys.stderr  # what libraries print must not break a line
    silence_libraries()
    answer: Converted | LoadFailed
    job = CONVERT_JOB.validate_json(file.read_text(encoding="utf-8"))

    def send(note: Note) -> None:
        print(note.model_dump_json(), file=out, flush=True)

    try:
        with light_imports():
            from vram_search.train.merge import merge
            from vram_search.train.ollama import write_ollama
            from vram_search.train.ollama_adapter import write_ollama_adapter

        if isinstance(job, OllamaJob):
            answer = write_ollama(job, send)
        elif isinstance(job, GgufAdapterJob):
            answer = write_ollama_adapter(job, send)
        else:
            answer = merge(job, send)
    except VramSearchError as error:
        answer = LoadFailed(message=error.message, remedy=error.remedy)
    except Exception as error:  # safetensors has a class of its own
        if not is_full_disk(str(error)):
            raise
        answer = LoadFailed(
            message=f"the disk of {_place(job)} is full: {error}",
            remedy="free some space, or name a folder on another disk",
        )
    print(answer.model_dump_json(), file=out, flush=True)


def _place(job: AnyConvertJob) -> Path:
    """Returns the folder that will hold the model's folder."""
    return Path(job.target if isinstance(job, MergeJob) else job.merge.target).parent


def _end_with_parent() -> None:
    """Ends this process once the one that started it is gone: nobody will use the result, and a
    repeated command writes the same folder."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    main(Path(sys.argv[1]))
