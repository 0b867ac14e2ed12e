"""A row in any of the usual forms, as an Example."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from vram_search.data.columns import (
    CONVERSATIONS,
    QUESTIONS,
    Fields,
    columns_to_name,
    conversation_field,
    field_names,
    has,
    is_message,
    is_nothing,
    lookup,
    pair_fields,
    system_field,
    tools_field,
    usual_names,
)
from vram_search.data.conversation import (
    NO_ROLE,
    NO_TEXT,
    UNKNOWN_ROLE,
    MessageNames,
    RowFaultError,
    checked_text,
    parse_conversation,
    parsed_json,
    question_and_answer,
    roles_to_name,
    system_text,
    tool_list,
)
from vram_search.data.example import TEXT, Example
from vram_search.data.findings import NOT_PREFERENCES, PREFERENCE_COLUMNS, Findings
from vram_search.data.text_rows import SEGMENTS, Wording, parse_segments
from vram_search.data.unreadable import Unreadable
from vram_search.errors import Fault
from vram_search.spec.dataset import Columns, Form

UNKNOWN_FORM = (
    "has none of messages, conversations, instruction and output, prompt and completion, question "
    "and answer, text"
)
PREFERENCES = "has chosen and rejected answers"
_ANSWERING = ("assistant", "gpt")
_MISSING = "is missing; its fields: "


@dataclass(frozen=True)
class RowReader:
    """Reads the rows of one file or data set.

    Attributes:
        label: the field of a KTO label.
        has_segments: the rows are Axolotl's `input_output`.
        wording: the text around question and answer, instead of a chat template.
    """

    form: Form = "auto"
    columns: Columns = field(default_factory=Columns)
    names: MessageNames = field(default_factory=MessageNames)
    label: str = "label"
    has_segments: bool = False
    wording: Wording | None = None

    def read(self, row: Any, place: str, findings: Findings) -> Example | None:
        """The row's example; None for a bad row, which is noted in the findings."""
        findings.rows += 1
        try:
            if isinstance(row, Unreadable):
                raise RowFaultError(Fault(place, row.message))
            if isinstance(row, list) and row and all(map(is_message, row)):
                row = {self.columns.messages: row}  # the messages alone
            if not isinstance(row, dict):
                raise RowFaultError(Fault(place, "is not an object", row))
            row = {key: None if is_nothing(value) else value for key, value in row.items()}
            return self._parse(usual_names(row, self.columns), place, findings)
        except RowFaultError as error:
            findings.faults.append(error.fault)
            findings.remedy = findings.remedy or _remedy(row, error.fault)
            return None

    def _parse(self, row: dict[str, Any], place: str, findings: Findings) -> Example:
        columns = self.columns
        if self.has_segments:
            findings.forms[SEGMENTS] += 1
            return parse_segments(row, place, findings)
        if self.wording is not None:
            findings.forms[f"{columns.prompt}, {columns.response}"] += 1
            self._used(row, findings, {columns.prompt, columns.query, columns.response})
            return self.wording.parse(row, columns, place, findings)
        talk = conversation_field(row, columns)
        pair = pair_fields(row, columns)
        if self.form in ("messages", "sharegpt"):
            talk, pair = talk or columns.messages, None
        elif self.form == "alpaca":
            talk, pair = None, pair or Fields(columns.prompt, columns.query, columns.response)
        elif self.form == "text":
            talk = pair = None
        if self.form == "auto" and _is_preference(row, talk, pair, columns):
            raise RowFaultError(Fault(place, f"has chosen and rejected answers; {NOT_PREFERENCES}"))
        if talk is not None:
            findings.forms[talk] += 1
            used = self._used(row, findings, {talk})
            return parse_conversation(
                lookup(row, talk),
                f"{place}.{talk}",
                self.names,
                findings,
                system=self._system(row, place, findings),
                tools=self._tools(row, place, used),
            )
        if pair is not None:
            findings.forms[f"{pair.prompt}, {pair.response}"] += 1
            return self._question_and_answer(row, pair, place, findings)
        if has(row, columns.text):
            findings.forms[columns.text] += 1
            self._used(row, findings, {columns.text})
            text = checked_text(lookup(row, columns.text), f"{place}.{columns.text}", findings)
            if not text.strip():
                raise RowFaultError(Fault(f"{place}.{columns.text}", "is empty"))
            return Example(((TEXT, text),))
        if self.form == "text":
            raise RowFaultError(Fault(f"{place}.{columns.text}", "is missing"))
        names = ", ".join(field_names(row)) or "-"
        there = [has(row, columns.prompt), has(row, columns.response)]
        if any(there):
            missing = columns.response if there[0] else columns.prompt
            raise RowFaultError(Fault(f"{place}.{missing}", f"{_MISSING}{names}"))
        raise RowFaultError(Fault(place, f"{UNKNOWN_FORM}; its fields: {names}"))

    def _used(self, row: dict[str, Any], findings: Findings, used: set[str]) -> set[str]:
        """Notes the fields that are not used, and returns those that are."""
        used = {*used, system_field(row, self.columns), tools_field(row, self.columns)}
        tops = {name.split(".")[0] for name in used} | used
        for key, value in row.items():
            if key not in tops and value not in (None, "", []):
                findings.unused[str(key)] += 1
        label = row.get(self.label)
        if label is False or (isinstance(label, str) and label.lower() == "false"):
            findings.bad_answers += 1
        return used

    def _system(self, row: dict[str, Any], place: str, findings: Findings) -> str:
        name = system_field(row, self.columns)
        system = system_text(lookup(row, name), f"{place}.{name}", findings)
        return system if system.strip() else ""

    def _tools(self, row: dict[str, Any], place: str, used: set[str]) -> list[Any]:
        name = tools_field(row, self.columns)
        return tool_list(lookup(row, name), f"{place}.{name}")

    def _question_and_answer(
        self, row: dict[str, Any], names: Fields, place: str, findings: Findings
    ) -> Example:
        """Instruction and input joined by a line break, as LLaMA-Factory's AlpacaDatasetConverter;
        a prompt and a completion of messages as one conversation, as TRL's."""
        columns = self.columns
        used = {names.prompt, names.query, names.response, columns.history}
        used = self._used(row, findings, used)
        prompt, answer = lookup(row, names.prompt), lookup(row, names.response)
        system = self._system(row, place, findings)
        tools = self._tools(row, place, used)
        if _is_messages(prompt) or _is_messages(answer):
            return parse_conversation(
                _as_messages(prompt, "user") + _as_messages(answer, "assistant"),
                f"{place}.{names.prompt}",
                self.names,
                findings,
                system=system,
                tools=tools,
            )
        for name, value in ((names.prompt, prompt), (names.response, answer)):
            if value is None and not has(row, name):
                raise RowFaultError(Fault(f"{place}.{name}", "is missing"))
        texts = [
            checked_text(value, f"{place}.{name}", findings)
            for name, value in (
                (names.prompt, prompt),
                (names.query, lookup(row, names.query)),
            )
        ]
        question = "\n".join(text for text in texts if text)
        if not question.strip():
            raise RowFaultError(Fault(f"{place}.{names.prompt}", "is empty"))
        response = checked_text(answer, f"{place}.{names.response}", findings)
        if not response.strip():
            findings.empty_answers += 1
            raise RowFaultError(Fault(f"{place}.{names.response}", "is empty"))
        pairs = [("system", system)] if system else []
        pairs += self._history(row, place, findings)
        pairs += [("user", question), ("assistant", response)]
        return question_and_answer(pairs, tools)

    def _history(
        self, row: dict[str, Any], place: str, findings: Findings
    ) -> list[tuple[str, str]]:
        name = self.columns.history
        history, at = lookup(row, name), f"{place}.{name}"
        if isinstance(history, str):
            history = parsed_json(history, at) if history.strip() else None
        turns: list[tuple[str, str]] = []
        no_pairs = RowFaultError(Fault(at, "is not a list of [question, answer] pairs"))
        if history is not None and not isinstance(history, (list, tuple)):
            raise no_pairs
        for pair in history or []:
            if not isinstance(pair, (list, tuple)) or len(pair) != 2:
                raise no_pairs
            question, answer = (checked_text(text, at, findings) for text in pair)
            if not question.strip() or not answer.strip():
                raise RowFaultError(Fault(at, "holds an empty question or answer"))
            turns += [("user", question), ("assistant", answer)]
        return turns


def _remedy(row: Any, fault: Fault) -> str:
    """How a study reads rows of a form that is not known; empty for another fault."""
    if isinstance(row, str):
        return 'write a text as an object: {"text": "..."}'
    if not isinstance(row, dict):
        return ""
    if fault.message.startswith(PREFERENCES):
        return f"to train on the chosen answers alone: --set 'dataset.columns={_chosen(row)}'"
    if fault.message.startswith((NO_ROLE, NO_TEXT)):
        return (
            "name the keys of a message under dataset.tags, for example --set "
            "'dataset.tags={role_tag: speaker, content_tag: utterance}'"
        )
    if fault.message == UNKNOWN_ROLE:
        return roles_to_name(row)
    is_unknown = fault.message.startswith((UNKNOWN_FORM, _MISSING))
    return columns_to_name(row) if is_unknown else ""


def _chosen(row: dict[str, Any]) -> str:
    """Columns that read the good answers of a row of preferences."""
    name = next(good for good in PREFERENCE_COLUMNS if row.get(good))
    good = row[name]
    begins = good[0] if isinstance(good, list) and good else good
    is_answer = is_message(begins) and begins.get("role", begins.get("from")) in _ANSWERING
    questions = ("prompt", *QUESTIONS, *CONVERSATIONS, "input.messages")
    question = next((one for one in questions if isinstance(lookup(row, one), (str, list))), None)
    if isinstance(good, list) and not is_answer:
        return f"{{messages: {name}}}"
    return f"{{prompt: {question}, response: {name}}}" if question else f"{{text: {name}}}"


def _as_messages(value: Any, role: str) -> list[Any]:
    if is_message(value):
        return [value]
    return value if _is_messages(value) else [{"role": role, "content": value}]


def _is_messages(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(message, dict) for message in value)


def _is_preference(
    row: dict[str, Any], talk: str | None, pair: Fields | None, columns: Columns
) -> bool:
    """True if the answers of a row are one chosen and one rejected answer, and no other."""
    if pair is not None or {columns.response, columns.text} & PREFERENCE_COLUMNS.keys():
        return False
    if not any(row.get(good) and row.get(bad) for good, bad in PREFERENCE_COLUMNS.items()):
        return False
    messages = row.get(talk) if talk else None
    if not isinstance(messages, list) or not messages or not isinstance(messages[-1], dict):
        return True
    last = messages[-1].get("role") or messages[-1].get("from")
    return last not in _ANSWERING
