"""Recognises a file by its name, first bytes and keys, and says which command takes it."""

from __future__ import annotations

import contextlib
import csv
import gzip
import re
import shlex
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vram_search.errors import InputError
from vram_search.parsing.encoding import decoded
from vram_search.parsing.json_text import parse_json
from vram_search.parsing.parse_error import ParseError
from vram_search.parsing.toml_text import parse_toml
from vram_search.parsing.yaml_text import parse_yaml
from vram_search.tools.detect import READ, TITLES, tool_of
from vram_search.tools.launch_lines import SHELL_SCRIPTS, WINDOWS_SCRIPTS

READ_AT_MOST = 4 * 2**20
"""Bytes of a file that are looked at; a mapping of another purpose is smaller."""

_ROWS_ARE = "rows (JSON, JSON lines, CSV, Parquet, text)"
TAKES = {
    "data": f"vram-search data takes {_ROWS_ARE}, a study or a training file",
    "estimate": "vram-search estimate takes a study, or a training file of LLaMA-Factory, Axolotl "
    "or TRL",
    "import": "vram-search import takes the output folder of a training, or a table of runs (CSV, "
    "Markdown)",
    "rows": f"a data set is a file of {_ROWS_ARE}",
    "run": "vram-search run takes a study; vram-search init writes one",
}
"""Command -> the files that it takes. "rows" is a file of a data set, for any command."""


@dataclass(frozen=True)
class FileKind:
    """A kind of file, and what takes it.

    Attributes:
        what: words after "this is".
        remedy: what takes it, with `{file}` and `{folder}`; empty if nothing does.
        commands: keys of TAKES whose own message is the right one for such a file.
    """

    what: str
    remedy: str = ""
    commands: frozenset[str] = frozenset()


_ROWS = FileKind(
    "a file of rows", "to look at it: vram-search data {file}", frozenset({"data", "rows"})
)
_TABLE = FileKind("a table", "", frozenset({"data", "import", "rows"}))
_CURVE = FileKind(
    "the curve of one run", "give the run's output folder, or a table with one run per row"
)
_EVENTS = FileKind(
    "TensorBoard's event file",
    "give the output folder of its training, which holds trainer_state.json, or a CSV table",
)
_RUNS = FileKind("a table of runs", "vram-search import {file}", frozenset({"import"}))
_STUDY = FileKind("a study", "vram-search run {file}", frozenset({"data", "estimate", "run"}))
_RUN_PART = FileKind(
    "a file of a training's output folder", "give the folder: vram-search import {folder}"
)
_TOKENIZER = FileKind(
    "a part of a tokenizer", "to count with it: vram-search data ROWS --model {folder}"
)
_MODEL = FileKind(
    "a part of a model", "give its folder: vram-search estimate --model {folder} --card CARD"
)
_PROJECT = FileKind("the description of a software project")
_SAVED_ROWS = FileKind(
    "a file that the library datasets saves beside rows",
    "give the folder: vram-search data {folder}",
)
_INFO = FileKind(
    "LLaMA-Factory's list of data sets",
    "name one of them: vram-search data {name} --dataset-dir {folder}",
)
_CARD = FileKind("the description of a card", "write its keys under card: in a study")
_PROGRAM = FileKind("a program", "", frozenset({"estimate"}))
_UNKNOWN = FileKind(
    "no file of a study, of a training or of rows", "", frozenset({"estimate", "rows"})
)

_BY_NAME: dict[str, FileKind] = {
    "Dockerfile": _PROGRAM,
    **dict.fromkeys(
        (
            *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json"),
            *("added_tokens.json", "merges.txt", "tokenizer.model", "vocab.txt"),
        ),
        _TOKENIZER,
    ),
    **dict.fromkeys(
        (
            *("generation_config.json", "model.safetensors.index.json", "quantize_config.json"),
            *("preprocessor_config.json", "processor_config.json", "pytorch_model.bin.index.json"),
        ),
        _MODEL,
    ),
    **dict.fromkeys(
        (
            *("trainer_state.json", "trainer_log.jsonl", "all_results.json", "eval_results.json"),
            *("train_results.json", "training_args.bin", "adapter_model.safetensors"),
            *("adapter_model.bin", "running_log.txt", "optimizer.pt", "scheduler.pt"),
        ),
        _RUN_PART,
    ),
    **dict.fromkeys(
        ("package.json", "package-lock.json", "pyproject.toml", "requirements.txt"), _PROJECT
    ),
}
_BY_SUFFIX: dict[str, FileKind] = {
    **dict.fromkeys(
        (".safetensors", ".bin", ".pt", ".pth", ".ckpt"),
        FileKind("a file of weights", _MODEL.remedy),
    ),
    **dict.fromkeys(
        (".xlsx", ".xls", ".ods"), FileKind("a spreadsheet", "save it as CSV, and give that file")
    ),
    **dict.fromkeys(
        (".zip", ".tar", ".tgz", ".7z", ".rar"),
        FileKind("an archive", "unpack it, and give the file or folder inside"),
    ),
    **dict.fromkeys(
        (".pdf", ".docx", ".doc", ".epub", ".html", ".htm", ".md"),
        FileKind("a document"),
    ),
    **dict.fromkeys(
        (".jinja", ".jinja2", ".j2"),
        FileKind("a chat template", "vram-search data ROWS --model NAME --template {file}"),
    ),
    **dict.fromkeys((".py", ".ipynb", *SHELL_SCRIPTS, *WINDOWS_SCRIPTS), _PROGRAM),
    ".toml": FileKind("a TOML file of no tool that is known", "", frozenset({"estimate"})),
    **dict.fromkeys((".parquet", ".arrow", ".feather"), _ROWS),
}
_BY_KEYS: tuple[tuple[frozenset[str], FileKind], ...] = (
    (frozenset({"log_history", "global_step"}), _RUN_PART),
    (frozenset({"current_steps", "total_steps"}), _RUN_PART),
    (frozenset({"train_runtime", "train_loss"}), _RUN_PART),
    (frozenset({"eval_loss", "epoch"}), _RUN_PART),
    (frozenset({"peft_type"}), FileKind("an adapter's settings (peft)", _RUN_PART.remedy)),
    (
        frozenset({"architectures", "model_type"}),
        FileKind("a model's config.json", _MODEL.remedy),
    ),
    (frozenset({"model", "added_tokens"}), _TOKENIZER),
    (frozenset({"tokenizer_class"}), _TOKENIZER),
    (frozenset({"weight_map"}), _MODEL),
    (frozenset({"features", "splits"}), _SAVED_ROWS),
    (frozenset({"_data_files", "_fingerprint"}), _SAVED_ROWS),
    (frozenset({"total_bytes", "name"}), _CARD),
    (frozenset({"dependencies", "version"}), _PROJECT),
    (frozenset({"cells", "nbformat"}), _PROGRAM),
    (frozenset({"summary", "config"}), _RUNS),
    (frozenset({"_step", "_timestamp"}), _CURVE),
    (frozenset({"epoch", "step"}), _CURVE),
    (
        frozenset({"Wall time", "Step", "Value"}),
        FileKind("one curve of TensorBoard", "give its run's folder: vram-search import {folder}"),
    ),
)
"""Keys that make a file of this kind if all of them are there; the surest first."""
_STUDY_KEYS = {"study", "model", "models", "dataset", "search_space", "card", "studies"}
_DATA_SET_PLACES = {"file_name", "hf_hub_url", "ms_hub_url", "om_hub_url", "script_url"}
_LOSSES = (
    *("eval_loss", "eval/loss", "val_loss", "train_loss", "train/loss", "loss", "outcome", "value"),
)
"""Columns of a table of runs."""
_SETTINGS = {"learning_rate", "lr", "lora_rank", "lora_r", "lora_alpha"}
"""Columns of a table of runs, also behind the name of their group: `hparams.learning_rate`."""
_ROW_FIELDS = {
    *("messages", "conversations", "conversation", "instruction", "input", "output", "prompt"),
    *("completion", "response", "question", "answer", "query", "text", "chosen", "system"),
}
"""Columns of rows to train on."""


@contextlib.contextmanager
def naming_other_files(path: Path, command: str) -> Iterator[None]:
    """Replaces the error for a file of another purpose by one that says what the file is.

    Args:
        command: a key of TAKES.

    Raises:
        InputError: as described, or the original one if the file has the right purpose or is of no
            kind that is known here.
    """
    try:
        yield
    except InputError as error:
        kind = kind_of_file(path)
        if kind is None or command in kind.commands:
            raise
        raise InputError(f"{path}: this is {kind.what}", kind.remedy or TAKES[command]) from error


def kind_of_file(path: Path) -> FileKind | None:
    """Returns None for a folder, a file that cannot be read, and a file of unknown purpose. Places
    are filled into the remedy."""
    try:
        with path.open("rb") as stream:
            start = stream.read(READ_AT_MOST + 1)
    except OSError:
        return None
    name, kind = "NAME", _BY_NAME.get(path.name) or _by_first_bytes(path, start)
    if path.name.startswith("events.out.tfevents."):
        kind = _EVENTS
    if kind is None and len(start) <= READ_AT_MOST:
        values = _values(path, start)
        kind = _by_values(values)
        if kind is _INFO and isinstance(values, Mapping):
            name = shlex.quote(str(next(iter(values))))
    if kind is None or kind is _UNKNOWN:
        kind = _BY_SUFFIX.get(path.suffix.lower(), kind)
    if kind is None:
        return None
    places = {"file": shlex.quote(str(path)), "folder": shlex.quote(str(path.parent))}
    return FileKind(kind.what, kind.remedy.format(name=name, **places), kind.commands)


def _by_first_bytes(path: Path, start: bytes) -> FileKind | None:
    if start.startswith(b"SQLite format 3\0"):
        return FileKind("a database", "to see its searches: vram-search studies --database {file}")
    if start.startswith(b"GGUF"):
        return FileKind(
            "a model's weights (GGUF)", "vram-search estimate --model {file} --card CARD"
        )
    if start.startswith((b"PAR1", b"ARROW1")):
        return _ROWS
    is_zip = start.startswith(b"PK\x03\x04")
    return _BY_SUFFIX.get(path.suffix.lower(), _BY_SUFFIX[".zip"]) if is_zip else None


def _values(path: Path, start: bytes) -> Any:
    """The value of a JSON, JSON lines, YAML, TOML or CSV file: a mapping, or the list of the first
    rows; None for anything else."""
    try:
        packed = gzip.decompress(start) if start.startswith(b"\x1f\x8b") else start
        text = decoded(packed)
    except (OSError, EOFError, zlib.error, UnicodeDecodeError):
        return None
    if not text.strip():
        return None
    suffix = next((s for s in reversed(path.suffixes) if s not in (".gz", ".txt")), "").lower()
    if suffix in (".csv", ".tsv"):
        return [dict.fromkeys(_header(text))]
    if suffix == ".toml":
        with contextlib.suppress(ParseError):
            return parse_toml(text)
        return None
    lines = text.strip().split("\n", 1)
    for part in (text, lines[0]):
        try:
            value = parse_json(part, half_pairs="keep")
        except ParseError:
            continue
        return value if part is text else [value]
    if suffix not in (".yaml", ".yml"):
        return None
    try:
        return parse_yaml(text)
    except ParseError:
        return None


def _header(text: str) -> list[str]:
    first = text.lstrip("\r\n").splitlines()[:1]
    mark = max(",;\t|", key="".join(first).count)
    try:
        return next(csv.reader(first, delimiter=mark), [])
    except csv.Error:  # a field that is too long
        return []


def _by_values(values: Any) -> FileKind | None:
    if isinstance(values, list):
        first = values[0] if values and isinstance(values[0], Mapping) else None
        if first is None:
            return None
        kind = _by_keys(first)
        if kind is None or kind is _PROGRAM:
            kind = _kind_of_rows(first)
        return kind
    if not isinstance(values, Mapping) or not values:
        return None
    if "study" in values and {"model", "models", "dataset", "search_space"} & set(values):
        return _STUDY
    if all(isinstance(one, Mapping) and _DATA_SET_PLACES & set(one) for one in values.values()):
        return _INFO
    kind = _by_keys(values)
    if kind is not None:
        return kind
    tool = tool_of(values)
    if tool is None:
        return None if _STUDY_KEYS & {str(key).lower() for key in values} else _UNKNOWN
    if tool in READ:
        return FileKind(
            f"a training file of {TITLES[tool]}",
            "for its memory: vram-search estimate {file} --card CARD; a search needs a study: "
            "vram-search init",
            frozenset({"data", "estimate"}),
        )
    return FileKind(f"a file of {TITLES[tool]}", "", frozenset({"estimate"}))


def _kind_of_rows(first: Mapping[Any, Any]) -> FileKind:
    if any(str(name).endswith("__MIN") for name in first):  # a chart of W&B
        return _CURVE
    if _is_run(first):
        return _RUNS
    names = {str(name).strip().lower() for name in first}
    is_header = all(value is None for value in first.values())
    return _TABLE if is_header and names.isdisjoint(_ROW_FIELDS) else _ROWS


def _by_keys(values: Mapping[Any, Any]) -> FileKind | None:
    names = set(values)
    return next((kind for keys, kind in _BY_KEYS if keys <= names), None)


def _is_run(row: Iterable[str]) -> bool:
    names = [str(name).lower().removeprefix("metrics.").replace(" ", "_") for name in row]
    settings = {re.split(r"[./]", name)[-1] for name in names}
    return any(name in _LOSSES for name in names) or not settings.isdisjoint(_SETTINGS)
