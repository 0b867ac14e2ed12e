"""What the benches of `bench.gpu_trials` share: rows, a prepared study, its card and its jobs."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vram_search.errors import InputError
from vram_search.estimate.calibration import hardware_for
from vram_search.estimate.memory.hardware import Hardware
from vram_search.estimate.memory_budget import MemoryBudget
from vram_search.gpu import GpuReader, NoGpuError, NvmlReader
from vram_search.models.names import shipped_name
from vram_search.protocol import LoadJob, TrialJob
from vram_search.resources import shipped
from vram_search.spec import Hyperparameters, MemoryPlan, StudySpec, load_study
from vram_search.worker.budget import Budget
from vram_search.worker.prepare import Prepared, prepare
from vram_search.worker.resident import ResidentTrainer

CUTOFFS = (384, 512, 1024, 2048)
TOO_LONG = 65_536
"""Infeasible on 16 GB under every plan, with a fused loss too."""
STEPS = 3
EVAL_TOKENS = (CUTOFFS[-1],) * 2
"""Tokens of each evaluation row."""
LONG_ROWS, SHORT_ROWS, TOO_LONG_ROWS = 32, 16, 2
"""Training rows of the largest cutoff, of random lengths below it, and of TOO_LONG tokens."""
TEMPLATE_TOKENS = 21
"""What the byte tokenizer's chat template adds to question and answer."""
QUESTION = "What comes of these words?"
Save = Callable[[Mapping[str, Any]], None]
"""Takes a report as far as it is."""


@dataclass(frozen=True)
class Bench:
    """A study prepared in a folder of its own, and the card it runs on.

    Without a GPU (`reader` None) everything runs on the CPU; only tests do that.
    """

    prepared: Prepared
    folder: Path
    reader: GpuReader | None
    budget: Budget

    @property
    def study(self) -> StudySpec:
        return self.prepared.study

    @property
    def card(self) -> str:
        """For titles: "emulated 16 GB on NVIDIA H200"."""
        return self.budget.emulated or self.study.card.label

    @property
    def hardware(self) -> Hardware:
        """Figures of the card that the device in this machine emulates."""
        return self.budget.as_played(hardware_for(self.study.card))

    def trainer(
        self, cutoff_lens: tuple[int, ...], *, enable_liger_kernel: bool = False
    ) -> ResidentTrainer:
        """A training process with the study's base model and the allocator's default settings."""
        prepared, study = self.prepared, self.study
        job = LoadJob(
            model_name_or_path=prepared.model_name_or_path,
            random_weights=study.base.weights == "random",
            tokenizer=prepared.tokenizer,
            dataset=study.dataset,
            seed=study.seed,
            cutoff_lens=cutoff_lens,
            eval_cutoff_len=study.eval_cutoff_len,
            cap_bytes=self.budget.first_bytes if self.reader else None,
            enable_liger_kernel=enable_liger_kernel,
        )
        uuid = self.reader.device().uuid if self.reader else None
        log = self.folder / "bench.log"
        return ResidentTrainer(job, log, expandable_segments=False, gpu_uuid=uuid)

    def trial_job(self, number: int, hp: Hyperparameters, plan: MemoryPlan, steps: int) -> TrialJob:
        training = self.study.training.model_copy(update={"max_steps": steps, "rungs": ()})
        return TrialJob(
            number=number,
            hyperparameters=hp,
            target_modules=tuple(self.prepared.shape.target_modules(hp.lora_target)),
            plan=plan,
            training=training,
            eval_cutoff_len=self.study.eval_cutoff_len,
            seed=self.study.seed,
            adapter_folder=str(self.folder / f"trial-{number}"),
        )


def point(optim: str, target: str, *, batch_size: int, cutoff_len: int) -> Hyperparameters:
    """Rank 16; the rest as given."""
    return Hyperparameters(
        optim=optim,
        lora_target=target,
        lora_rank=16,
        lora_alpha=32,
        cutoff_len=cutoff_len,
        batch_size=batch_size,
        learning_rate=1e-4,
    )


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def write_report(file: Path, report: Mapping[str, Any]) -> None:
    """A report as JSON; a bench that is stopped meanwhile leaves the previous one."""
    fresh = file.with_name(f"{file.name}.new")
    fresh.write_text(json.dumps(report), encoding="utf-8")
    fresh.replace(file)


def train_lengths(drawn: random.Random) -> list[int]:
    """Tokens of each training row: most reach every cutoff but TOO_LONG."""
    lengths = [CUTOFFS[-1]] * LONG_ROWS + [TOO_LONG] * TOO_LONG_ROWS
    return lengths + [drawn.randint(CUTOFFS[0] // 4, CUTOFFS[-1]) for _ in range(SHORT_ROWS)]


def write_rows(
    folder: Path, seed: int, train_tokens: Sequence[int] | None, eval_tokens: Sequence[int]
) -> None:
    """`train.jsonl` and `eval.jsonl`: random words; a row's tokens are its bytes and the
    template's."""
    drawn = random.Random(seed)
    lengths = train_lengths(drawn) if train_tokens is None else train_tokens
    for name, wanted in (("train", lengths), ("eval", eval_tokens)):
        rows = [{"instruction": QUESTION, "output": _words(tokens, drawn)} for tokens in wanted]
        text = "\n".join(json.dumps(row) for row in rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")


def _words(tokens: int, drawn: random.Random) -> str:
    """An answer that makes its row so many tokens long."""
    letters = drawn.choices("abcdefghij ", k=tokens - TEMPLATE_TOKENS - len(QUESTION) - 1)
    return "".join(letters) + "."


def write_shape(folder: Path, model: str, layers: int) -> Path:
    """The model's config.json with fewer layers."""
    found = shipped_name(model)
    assert found is not None, "the benches name shipped shapes"
    config = json.loads(shipped("configs", "models", found.slug, "config.json").read_text("utf-8"))
    file = folder / "shape" / "config.json"
    file.parent.mkdir()
    file.write_text(json.dumps({**config, "num_hidden_layers": layers}), encoding="utf-8")
    return file.parent


def bench_study(
    folder: Path,
    model: str,
    seed: int,
    *,
    layers: int | None = None,
    train_tokens: Sequence[int] | None = None,
    eval_tokens: Sequence[int] = EVAL_TOKENS,
) -> StudySpec:
    """TD-010 with random weights, short trials, and a cutoff that never fits.

    Args:
        model: hub name of a shipped shape.
        layers: of the base; None: all.
        train_tokens: of each training row; None: `train_lengths`.
        eval_tokens: of each evaluation row.
    """
    write_rows(folder, seed, train_tokens, eval_tokens)
    return load_study(
        Path("td-010"),
        [
            "study=gpu-trials",
            f"model.model_name_or_path={model}",
            "model.weights=random",
            f"dataset.train={folder / 'train.jsonl'}",
            f"dataset.eval={folder / 'eval.jsonl'}",
            f"search_space.cutoff_len={[*CUTOFFS, TOO_LONG]}",
            "training.num_train_epochs=null",
            f"training.max_steps={STEPS}",
            "training.rungs=[]",
            f"training.eval_cutoff_len={CUTOFFS[-1]}",
            "enqueue_priors=false",
            f"seed={seed}",
            f"database={folder / 'bench.db'}",
            *([f"model.shape={write_shape(folder, model, layers)}"] if layers else []),
        ],
    )


def ready_on_gpu(bench: Bench, trainer: ResidentTrainer) -> None:
    """Waits for the base model.

    Raises:
        InputError: torch sees no GPU although NVML does.
    """
    if not trainer.ready().has_gpu and bench.reader is not None:
        raise InputError("torch finds no GPU here", "install a build of torch with CUDA")


def open_gpu() -> GpuReader:
    """The GPU that is here.

    Raises:
        InputError: there is none.
    """
    try:
        return NvmlReader()
    except NoGpuError as error:
        raise InputError(
            f"this bench needs a GPU: {error.message}",
            "run it where there is one; --from FILE shows what an earlier --out wrote",
        ) from None


def open_bench(
    folder: Path,
    model: str,
    seed: int,
    *,
    layers: int | None = None,
    train_tokens: Sequence[int] | None = None,
    eval_tokens: Sequence[int] = EVAL_TOKENS,
) -> Bench:
    """`bench_study` in a folder, on the GPU that is here.

    Raises:
        InputError: there is no GPU, or nothing of it is left.
    """
    reader = open_gpu()
    study = bench_study(
        folder, model, seed, layers=layers, train_tokens=train_tokens, eval_tokens=eval_tokens
    )
    prepared = prepare(study, progress)
    limit = MemoryBudget.of(prepared.study.card, prepared.shape)
    return Bench(prepared, folder, reader, Budget.at_start(limit, reader, progress))
