"""An entry of Axolotl's `datasets:` (0.19, `utils/schemas/datasets.py`)."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from vram_search.data.conversation import MessageNames
from vram_search.data.findings import NOT_PREFERENCES
from vram_search.data.forms import RowReader
from vram_search.data.source import Source
from vram_search.data.text_rows import Wording
from vram_search.errors import Fault, FaultyFileError, InputError
from vram_search.spec.base import Count, Spec
from vram_search.spec.dataset import Columns, Form

_TYPES: dict[str, tuple[Form, dict[str, str]]] = {
    "alpaca": ("alpaca", {}),
    "alpaca_chat": ("auto", {}),
    "alpaca_w_system": ("auto", {}),
    "gpteacher": ("alpaca", {"response": "response"}),
    "jeopardy": ("alpaca", {"prompt": "question", "response": "answer", "query": "category"}),
    "oasst": ("alpaca", {"prompt": "INSTRUCTION", "response": "RESPONSE"}),
    "reflection": ("auto", {}),
    "context_qa": ("alpaca", {"prompt": "context", "query": "question", "response": "answer"}),
    "summarizetldr": ("alpaca", {"prompt": "article", "response": "summary"}),
    "sharegpt": ("sharegpt", {}),
    "chat_template": ("messages", {}),
    "completion": ("text", {}),
    "pretrain": ("text", {}),
    "input_output": ("text", {}),
}
"""`type` up to its first `.` or `:` -> form and columns."""
_PREFERENCES = ("chatml", "llama3", "zephyr", "passthrough", "argilla", "intel", "ultra", "icr")
_ROLES = {"tool": "tool", "system": "system", "user": "user", "assistant": "assistant"}


class _UserDefined(Spec):
    """`type` as a mapping."""

    system_prompt: str | None = None
    system_format: str | None = None
    field_system: str | None = None
    field_instruction: str | None = None
    field_input: str | None = None
    field_output: str | None = None
    format: str | None = None
    no_input_format: str | None = None
    field: str | None = None


class _Entry(Spec):
    path: str
    name: str | None = None
    split: str | None = None
    ds_type: str | None = None
    data_files: str | tuple[str, ...] | None = None
    type: str | _UserDefined | None = None
    field: str | None = None
    field_messages: str | None = None
    field_human: str | None = None
    field_model: str | None = None
    field_system: str | None = None
    field_tools: str | None = None
    field_thinking: str | None = None
    message_property_mappings: dict[str, str] | None = None
    message_field_role: str | None = None
    message_field_content: str | None = None
    message_field_training: str | None = None
    message_field_training_detail: str | None = None
    roles: dict[str, str | tuple[str, ...]] | None = None
    roles_to_train: tuple[str, ...] | None = None
    max_samples: Count | None = None
    # Accepted; the study's own settings or the tokenizer's template count.
    train_on_eos: Any = None
    train_on_eot: Any = None
    train_on_inputs: Any = None
    chat_template: Any = None
    chat_template_jinja: Any = None
    template_thinking_key: Any = None
    split_thinking: Any = None
    conversation: Any = None
    drop_system_message: Any = None
    shards: Any = None
    shards_idx: Any = None
    preprocess_shards: Any = None
    revision: Any = None
    trust_remote_code: Any = None
    skip: Any = None
    eot_tokens: Any = None


_NOT_FOLLOWED = (
    *("chat_template", "chat_template_jinja", "conversation", "train_on_inputs"),
    *("drop_system_message", "shards", "message_field_training_detail"),
)


def axolotl_source(given: dict[str, Any], split: str) -> Source:
    """The entry's rows.

    Args:
        split: where the entry names none.

    Raises:
        InputError: its type is not one of supervised fine-tuning, or is not read.
        FaultyFileError: it has keys that are not known.
    """
    try:
        entry = _Entry.model_validate(given)
    except ValidationError as error:
        faults = [
            Fault(".".join(map(str, fault["loc"])), fault["msg"].lower(), fault["input"])
            for fault in error.errors()
        ]
        raise FaultyFileError(f"the data set {given.get('path')}", faults) from None
    form, columns = _form(entry)
    wording = _wording(entry)
    notes = _prompt_notes(entry, wording)
    notes += [f"{key} is not followed" for key in _NOT_FOLLOWED if getattr(entry, key)]
    if entry.roles_to_train and set(entry.roles_to_train) - {"assistant", "gpt", "model"}:
        notes.append("roles_to_train: the loss is on the assistant's turns alone")
    files = entry.data_files
    return Source(
        entry.path,
        RowReader(
            form,
            columns,
            _message_names(entry),
            has_segments=entry.type == "input_output",
            wording=wording,
        ),
        split=entry.split or split,
        subset=entry.name,
        data_files=list(files) if isinstance(files, tuple) else files,
        limit=entry.max_samples,
        notes=tuple(notes),
    )


def _wording(entry: _Entry) -> Wording | None:
    """The entry's own formats; None if it has none."""
    own = entry.type
    if not isinstance(own, _UserDefined) or not (own.format or own.no_input_format):
        return None
    form = own.format or own.no_input_format or ""
    return Wording(
        form,
        own.no_input_format or form,
        own.system_format or "{system}",
        own.system_prompt or "",
    )


def _prompt_notes(entry: _Entry, wording: Wording | None) -> list[str]:
    """Says where Axolotl writes a prompt of its own, and the chat template is used here."""
    kind = entry.type if isinstance(entry.type, str) else "a mapping without format"
    is_templated = kind.startswith(("chat_template", "completion", "pretrain", "input_output"))
    if entry.type is None or wording is not None or is_templated:
        return []
    return [f"type {kind}: the chat template writes the prompt, not Axolotl's own text"]


def _form(entry: _Entry) -> tuple[Form, Columns]:
    named = {
        "messages": entry.field_messages,
        "system": entry.field_system,
        "tools": entry.field_tools,
        "text": entry.field,
    }
    if isinstance(entry.type, _UserDefined):
        own = entry.type
        named |= {
            "prompt": own.field_instruction,
            "query": own.field_input,
            "response": own.field_output,
            "system": own.field_system,
            "text": own.field,
        }
        return "alpaca", Columns(**{key: name for key, name in named.items() if name})
    kind = (entry.type or "auto").replace(":", ".").split(".")[0]
    rest = (entry.type or "")[len(kind) :]
    if kind in _PREFERENCES or kind in ("orpo", "dpo", "kto", "bradley_terry"):
        raise InputError(f"{entry.path}: type {entry.type}: {NOT_PREFERENCES}")
    if kind != "auto" and kind not in _TYPES:
        raise InputError(
            f"{entry.path}: the Axolotl type {entry.type!r} is not read",
            f"types that are: {', '.join(_TYPES)}, or a mapping of field_instruction, "
            "field_input and field_output",
        )
    form, columns = _TYPES.get(kind, ("auto", {}))
    if kind == "completion" and rest and not entry.field:
        columns = {"text": rest[1:]}
    if form == "messages" and not entry.field_messages and entry.type == "chat_template":
        form = "auto"  # Axolotl's default is `messages`; other usual names are taken too
    return form, Columns(**{**columns, **{key: name for key, name in named.items() if name}})


def _message_names(entry: _Entry) -> MessageNames:
    mappings = entry.message_property_mappings or {}
    roles = {}
    for role, names in (entry.roles or {}).items():
        for name in (names,) if isinstance(names, str) else names:
            roles[name] = _ROLES.get(role, role)
    return MessageNames(
        mappings.get("role") or entry.message_field_role,
        mappings.get("content") or entry.message_field_content,
        roles,
        entry.message_field_training,
    )
