"""The training process: loads the base model once, then serves one trial after another."""

from __future__ import annotations

import faulthandler
import signal
import sys
import time
import traceback
from typing import TYPE_CHECKING

from vram_search.data import load_rows
from vram_search.errors import InputError, VramSearchError, is_full_disk
from vram_search.protocol import (
    EvaluateBaseJob,
    Finished,
    GenerateJob,
    LoadFailed,
    LoadJob,
    PruneDecision,
    Ready,
    TrialJob,
)
from vram_search.train.channel import Channel, silence_libraries
from vram_search.train.liger_error import LigerRefusedError

if TYPE_CHECKING:
    from vram_search.train.health import Health
    from vram_search.train.run import EncodedDataset, Trial


def main() -> None:
    """Exchanges JSON lines with the supervisor until it closes the pipe or memory runs out."""
    # Ctrl-C reaches the whole process group; the supervisor decides what becomes of the trial.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.enable(file=2)  # a crash in a library's C code leaves a trace in training.log
    channel = Channel()
    silence_libraries()
    try:
        serve(channel)
    except VramSearchError as error:
        channel.send(
            LoadFailed(
                message=error.message,
                remedy=error.remedy,
                without_liger=isinstance(error, LigerRefusedError),
            )
        )
    except Exception as error:
        traceback.print_exc()
        fault = explain(error)
        if fault is None:
            sys.exit(1)
        channel.send(fault)


def explain(error: Exception) -> LoadFailed | None:
    """Returns the fault in words if its cause is outside our code, otherwise None."""
    from vram_search.train.faults import first_sentences, is_out_of_memory
    from vram_search.train.model import allocated_bytes
    from vram_search.units import format_bytes

    if is_out_of_memory(error):
        held = allocated_bytes()  # by the base alone; the error's traceback keeps it
        beside = f"; {format_bytes(held)} of it were loaded" if held else ""
        asked = first_sentences(str(error)) or type(error).__name__
        return LoadFailed(
            message=f"memory ran out while the base model was loaded: {asked}{beside}",
            remedy="another program may hold the card: `vram-search doctor` shows its free memory",
            is_passing=True,
        )
    if is_full_disk(str(error)):
        return LoadFailed(
            message=f"the disk is full: {error}", remedy="free some space, then run again"
        )
    return None


def serve(channel: Channel) -> None:
    """Loads the base and runs trials; ends after an out-of-memory, which may harm the allocator."""
    job = channel.receive()
    assert isinstance(job, LoadJob), "the first job loads the model"
    start = time.perf_counter()
    from vram_search.model_code.light_imports import light_imports

    with light_imports():
        import torch

        from vram_search.train import model as base_model
        from vram_search.train.common_rows import whole_rows
        from vram_search.train.device import compute_dtype, device_name, dtype_name
        from vram_search.train.examples import Encoder, learnt_bytes
        from vram_search.train.fingerprints import fingerprints
        from vram_search.train.generate import evaluate_base, generate
        from vram_search.train.health import Health
        from vram_search.train.run import EncodedDataset, Trial
        from vram_search.train.storage import differing_tree
        from vram_search.train.tokenizer import load_tokenizer

    import_seconds = time.perf_counter() - start
    tokenizer = load_tokenizer(job.tokenizer, job.dataset.template)
    rows = load_rows(job.dataset, job.seed, all_rows=job.all_rows)
    encoder = Encoder(tokenizer, job.dataset.date)
    evaluated, learnt = rows.eval, None
    if job.other_tokenizers:
        evaluated = whole_rows(job, rows.eval, encoder)
        learnt = [learnt_bytes(row) for row in evaluated]
    encoded = EncodedDataset(
        encoder.encode_all(rows.train), encoder.encode_all(evaluated), tokenizer, learnt
    )
    check_answers(encoded, max(job.cutoff_lens), job.eval_cutoff_len)
    lengths = [row.length for row in encoded.train]
    eval_lengths = [row.length for row in encoded.eval]
    too_long = sum(length > max(job.cutoff_lens) for length in lengths)
    base_model.limit_allocator(job.cap_bytes)
    base = base_model.load_base(job)
    health = Health(base)
    base_model.keep_loaded()
    ready = Ready(
        device=device_name(),
        has_gpu=torch.cuda.is_available(),
        versions={
            **base_model.versions(),
            "compute_dtype": dtype_name(compute_dtype()),
        },
        train_rows=len(rows.train),
        eval_rows=len(encoded.eval),
        longest_tokens=max(lengths),
        longest_eval_tokens=max(eval_lengths),
        shortest_tokens=min(lengths),
        shortest_eval_tokens=min(eval_lengths),
        rows_cut=too_long,
        data_hash=rows.data_hash,
        allocated_bytes=base_model.allocated_bytes(),
        seconds=time.perf_counter() - start,
        import_seconds=import_seconds,
        fingerprints=fingerprints(job, encoded.train, encoded.eval),
        notes=tuple(encoder.notes),
        tree=differing_tree(base, job.predicted_storage),
    )
    channel.send(ready)
    loaded = {
        "rows": ready.data_hash,
        "device": ready.device,
        **ready.versions,
        **ready.fingerprints,
    }

    def ask_verdict() -> bool:
        verdict = channel.receive()
        assert isinstance(verdict, PruneDecision), "a rung is answered with a verdict"
        return verdict.prune

    while True:
        trial = channel.receive()
        if isinstance(trial, EvaluateBaseJob):
            channel.send(evaluate_base(base, encoded, trial))
            continue
        if isinstance(trial, GenerateJob):
            channel.send(generate(base, tokenizer, job.dataset.date, trial))
            continue
        assert isinstance(trial, TrialJob), "after loading come trials"
        running = Trial(base, encoded, trial, channel.send, ask_verdict, loaded, channel.send_alive)
        finished = examined(running, health)
        channel.send(finished)
        if finished.outcome == "oom":
            return


def examined(trial: Trial, health: Health) -> Finished:
    """Runs a trial and checks the state in which it left the process.

    Memory that runs out outside the training itself is the trial's out-of-memory too; its stage is
    `check` while the process is checked.
    """
    from vram_search.train.faults import is_out_of_memory

    try:
        finished = trial.run()
        trial.position.stage = "check"
        return health.examine(finished)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return trial.out_of_memory(error)


def check_answers(encoded: EncodedDataset, cutoff_len: int, eval_cutoff_len: int) -> None:
    """Checks that the cutoffs leave answers to learn and to evaluate.

    Raises:
        InputError: a cutoff removes every answer.
    """
    from vram_search.train.examples import cut

    for name, rows, cutoff in (
        ("training", encoded.train, cutoff_len),
        ("evaluation", encoded.eval, eval_cutoff_len),
    ):
        if not any(cut(row, cutoff).answer_tokens for row in rows):
            raise InputError(
                f"no {name} row keeps a token of its answer within {cutoff} tokens (the shortest "
                f"row has {min(row.length for row in rows)})",
                "set search_space.cutoff_len higher, or shorten the questions",
            )


if __name__ == "__main__":
    main()
