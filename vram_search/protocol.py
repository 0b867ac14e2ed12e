"""The messages between the supervising process (`worker`) and the training process (`train`).

One JSON object per line. The supervisor sends jobs to the training process's standard input; it
answers with events on its standard output. When its standard input closes, it ends at once, so no
training outlives its supervisor.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from vram_search.spec.answers import AnswerFunction
from vram_search.spec.base import Spec
from vram_search.spec.base_storage import BaseStorage
from vram_search.spec.dataset import DatasetSpec
from vram_search.spec.plan import MemoryPlan
from vram_search.spec.point import Hyperparameters
from vram_search.spec.study import TrainingSpec

STALL_SECONDS = 1800.0
"""Silence after which a training process counts as hung while it loads or downloads a model."""
ALIVE_SECONDS = 10.0
"""A training process that makes progress is not silent for longer, except within a micro-batch."""
LEAK_BYTES = 16 * 2**20
"""Allocated bytes after a trial may exceed those before it by so much; more is a leak."""


class LoadJob(Spec):
    """Load and quantise the base model, read and encode the rows; once a process."""

    do: Literal["load"] = "load"
    model_name_or_path: str
    random_weights: bool
    tokenizer: str | None
    dataset: DatasetSpec
    seed: int
    cutoff_lens: tuple[int, ...]
    eval_cutoff_len: int
    cap_bytes: int | None = None
    """The allocator's limit on a GPU; None: no limit."""
    enable_liger_kernel: bool = False
    """Patches the base once; every trial's plan says the same."""
    all_rows: bool = False
    """Trains on the rows that `max_samples` leaves out, too (`data.load_rows`)."""
    other_tokenizers: tuple[str | None, ...] = ()
    """Tokenizers of the study's other base models. Evaluation rows that the cutoff cuts under any
    of them are left out, so that all models are compared on the same text."""
    predicted_storage: BaseStorage | None = None
    """How the base is predicted to be on the card; None compares nothing."""


class AnswersJob(Spec):
    """Generate and score answers at each evaluation: the objective is their score."""

    metric: str
    """The study's objective: `exact_match`, `rouge_l`, or that of `function`."""
    function: AnswerFunction | None
    minimise: bool
    rows: int
    max_new_tokens: int
    total_tokens: int
    """Prompt and answer take no more; a longer prompt loses its start."""
    batch_size: int
    date: str
    """Date for templates that put today's into the prompt."""


class TrialJob(Spec):
    """Probe and train one adapter on the resident base model."""

    do: Literal["trial"] = "trial"
    number: int
    hyperparameters: Hyperparameters
    target_modules: tuple[str, ...]
    plan: MemoryPlan
    training: TrainingSpec
    eval_cutoff_len: int
    seed: int
    adapter_folder: str
    """Where the best checkpoint's adapter goes; the parent folder exists."""
    checkpoint_folder: str | None = None
    """Where the trial finds and keeps its checkpoint; None keeps none."""
    answers: AnswersJob | None = None
    """None: the objective is a loss."""
    patience_seconds: float = STALL_SECONDS
    """Silence after which the training counts as hung; its process then writes all stacks into its
    log, and is replaced."""


class EvaluateBaseJob(Spec):
    """Evaluate the base model without an adapter on the study's evaluation rows."""

    do: Literal["evaluate_base"] = "evaluate_base"
    eval_cutoff_len: int


class GenerateJob(Spec):
    """Answer conversations with the base model, or with a kept adapter on it."""

    do: Literal["generate"] = "generate"
    conversations: tuple[tuple[tuple[str, str], ...], ...]
    """Each a sequence of (role, content); the answer to its last turn is written."""
    adapter_folder: str | None
    """None: the untuned model."""
    max_new_tokens: int


class MergeJob(Spec):
    """Merge a kept adapter into its base model; a job of `train.convert`."""

    do: Literal["merge"] = "merge"
    load: LoadJob
    adapter_folder: str
    target: str
    """Folder into which the merged model is written; it is empty or does not exist."""
    measure: bool
    """Evaluates the merged model on the study's evaluation rows."""
    base_fingerprints: dict[str, str] = {}
    """Fingerprints of the base model that the search trained, by name, as far as recorded."""


class OllamaJob(Spec):
    """Write a kept adapter as GGUF file and Modelfile; a job of `train.convert`."""

    do: Literal["ollama"] = "ollama"
    merge: MergeJob
    """`target` is the folder of both files; `measure` measures the GGUF file."""
    kind: str
    """Form of the matrices: bf16, f16, q8_0 or q4_0."""
    llama_cpp: str | None
    """Folder of llama.cpp, whose converter writes the file; None writes it here."""
    comments: tuple[str, ...]
    """Lines at the head of the Modelfile."""


class GgufAdapterJob(Spec):
    """Write a kept adapter alone as a GGUF file, with a Modelfile; a job of `train.convert`."""

    do: Literal["gguf_adapter"] = "gguf_adapter"
    merge: MergeJob
    """`target` is the folder of the files; `measure` measures the base with the file's adapter."""
    kind: str
    """Form of the base's matrices, if the base is written too: bf16, f16, q8_0 or q4_0."""
    ollama_base: str | None
    """Ollama's name of the base model; None writes the base beside the adapter."""
    comments: tuple[str, ...]
    """Lines at the head of the Modelfile."""


AnyConvertJob = MergeJob | OllamaJob | GgufAdapterJob
ConvertJob = Annotated[AnyConvertJob, Field(discriminator="do")]
CONVERT_JOB: TypeAdapter[AnyConvertJob] = TypeAdapter(ConvertJob)


class PruneDecision(Spec):
    """The answer to an evaluation at a rung: go on, or stop here."""

    do: Literal["verdict"] = "verdict"
    prune: bool


AnyJob = LoadJob | TrialJob | EvaluateBaseJob | GenerateJob | PruneDecision
Job = Annotated[
    LoadJob | TrialJob | EvaluateBaseJob | GenerateJob | PruneDecision, Field(discriminator="do")
]
JOB: TypeAdapter[AnyJob] = TypeAdapter(Job)


class Ready(Spec):
    """The base model is resident."""

    event: Literal["ready"] = "ready"
    device: str
    has_gpu: bool
    versions: dict[str, str]
    train_rows: int
    eval_rows: int
    longest_tokens: int
    """Tokens of the longest training row, before it is cut."""
    longest_eval_tokens: int
    shortest_tokens: int = 0
    """Tokens of the shortest training row; 0 if it was not counted."""
    shortest_eval_tokens: int = 0
    rows_cut: int
    """Training rows longer than the largest cutoff_len."""
    data_hash: str
    allocated_bytes: int | None
    seconds: float
    import_seconds: float = 0.0
    """The part of `seconds` before anything was loaded, when no memory of the card was used."""
    fingerprints: dict[str, str] = Field(default_factory=dict)
    """Hashes of what was loaded, by name: `tokens`, `weights`."""
    notes: tuple[str, ...] = ()
    """Sentences about the rows as the chat template writes them."""
    tree: dict[str, Any] | None = None
    """The base's module tree (`ModelTree.to_json`) if its parameters are in other forms than
    predicted; None otherwise."""


class LoadFailed(Spec):
    """The request cannot be carried out; the supervisor shows the message and stops."""

    event: Literal["fault"] = "fault"
    message: str
    remedy: str = ""
    without_liger: bool = False
    """The model can be loaded without Liger's kernels."""
    is_passing: bool = False
    """Trying again later may help: the card was full."""


class Stage(Spec):
    """The trial enters a stage."""

    event: Literal["stage"] = "stage"
    stage: Literal["probe", "train", "eval"]
    steps_total: int = 0


class Probed(Spec):
    """The probe is over; without a GPU, bytes and step_seconds are None."""

    event: Literal["probed"] = "probed"
    allocated_bytes: int | None
    reserved_bytes: int | None
    seconds: float
    step_seconds: float | None = None
    """Seconds of the last optimizer step on the longest rows, scaled to the plan's accumulation."""
    parts: dict[str, int] = Field(default_factory=dict)
    """The allocated peak by part, names as in `Estimate.parts`; adds up to it."""


class Step(Spec):
    """One optimizer step; non-finite figures are None."""

    event: Literal["step"] = "step"
    step: int
    loss: float | None
    learning_rate: float
    grad_norm: float | None
    seconds: float
    allocated_bytes: int | None = None


class Alive(Spec):
    """A micro-batch has begun; sent if nothing else was sent for a while."""

    event: Literal["alive"] = "alive"


class Evaluated(Spec):
    """An evaluation at a rung or at the end; at a rung the process waits for a PruneDecision."""

    event: Literal["evaluated"] = "evaluated"
    step: int
    fraction: float
    is_rung: bool
    eval_loss: float | None
    """Mean per answer token at the study's eval cutoff, nats; None when not finite."""
    own_cutoff_eval_loss: float | None
    """The same at the trial's own cutoff_len; only at the end."""
    bits_per_byte: float | None
    example_loss_sums: tuple[float | None, ...]
    answer_error: float | None = None
    """Mean of `answer_errors`; None if no answers were generated."""
    answer_errors: tuple[float, ...] | None = None
    """1 - the score of each generated answer, in the order of the rows."""
    seconds: float


class Resumed(Spec):
    """The trial goes on from the checkpoint of a training that was cut off."""

    event: Literal["resumed"] = "resumed"
    step: int
    """The checkpoint's optimizer step; the next event is the step after it."""
    steps: tuple[Step, ...]
    evaluations: tuple[Evaluated, ...]


class CheckpointRefused(Spec):
    """There is a checkpoint that cannot be used; the trial starts at its first step."""

    event: Literal["checkpoint_refused"] = "checkpoint_refused"
    reason: str


class Finished(Spec):
    """The trial is over as far as the training process can tell."""

    event: Literal["finished"] = "finished"
    outcome: Literal["complete", "pruned", "oom", "diverged", "failed"]
    stage: str
    step: int
    """The stage's optimizer step under way at the end, or the last one; from 1."""
    steps_total: int
    message: str = ""
    remedy: str = ""
    requested_bytes: int | None = None
    batch_shape: tuple[int, int] | None = None
    """The latest micro-batch or evaluation batch: rows, tokens of the longest."""
    allocated_bytes: int | None = None
    reserved_bytes: int | None = None
    trainable_parameters: int | None = None
    best_step: int | None = None
    seconds: dict[str, float] = Field(default_factory=dict)
    leaked_bytes: int = 0
    survivors: tuple[str, ...] = ()
    """The largest tensors that a leak left behind, in words."""
    is_host_memory: bool = False
    """After an out-of-memory: main memory ran out, not the card's."""
    base_intact: bool = True
    """A sample of the base's weights is bit-identical to what was loaded."""
    parts: dict[str, int] = Field(default_factory=dict)
    """After an out-of-memory: what was allocated at that moment, by part."""


class BaseEvaluated(Spec):
    """The untuned model's evaluation; figures as in Evaluated."""

    event: Literal["base_evaluated"] = "base_evaluated"
    eval_loss: float | None
    bits_per_byte: float | None
    example_loss_sums: tuple[float | None, ...]
    seconds: float


class Generated(Spec):
    """The answers to a GenerateJob's conversations, in their order."""

    event: Literal["generated"] = "generated"
    answers: tuple[str, ...]


class Note(Spec):
    """A line of progress of `train.convert`."""

    event: Literal["note"] = "note"
    text: str


class Merged(Spec):
    """The merged model is written; losses are None or empty if they were not measured."""

    event: Literal["merged"] = "merged"
    size_bytes: int
    eval_loss: float | None
    example_loss_sums: tuple[float | None, ...]
    dtype: str
    """The dtype in which it was measured, as torch names it."""
    versions: dict[str, str]


class OllamaWritten(Spec):
    """The folder for Ollama is written; losses as in Merged, of the GGUF file, or of the base with
    the adapter in the GGUF file."""

    event: Literal["ollama_written"] = "ollama_written"
    written_by: str
    kind: str
    size_bytes: int
    eval_loss: float | None
    example_loss_sums: tuple[float | None, ...]
    dtype: str
    notes: tuple[str, ...]


Converted = Merged | OllamaWritten
ConvertEvent = Annotated[Note | Merged | OllamaWritten | LoadFailed, Field(discriminator="event")]
CONVERT_EVENT: TypeAdapter[Note | Merged | OllamaWritten | LoadFailed] = TypeAdapter(ConvertEvent)

AnyEvent = (
    Ready
    | LoadFailed
    | Stage
    | Probed
    | Step
    | Evaluated
    | Alive
    | Resumed
    | CheckpointRefused
    | Finished
    | BaseEvaluated
    | Generated
)
Event = Annotated[AnyEvent, Field(discriminator="event")]
EVENT: TypeAdapter[AnyEvent] = TypeAdapter(Event)


def parse_event(line: str) -> AnyEvent:
    """An event from its line.

    Raises:
        ValueError: the line is none; the training process is not ours or is broken.
    """
    return EVENT.validate_json(line)


def parse_job(line: str) -> AnyJob:
    """A job from its line.

    Raises:
        ValueError: the line is none.
    """
    return JOB.validate_json(line)


def finite(value: Any) -> float | None:
    """A float for JSON: None in place of nan and infinities."""
    number = float(value)
    return number if number == number and abs(number) != float("inf") else None
