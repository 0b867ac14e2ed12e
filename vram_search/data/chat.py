"""Where the answers stand in a conversation that a chat template has rendered.

The conversation is rendered once, whole. An answer is found in it by its turns so far, where the
template writes them the same each time, and else by a mark that is written in the answer's place:
so templates that rewrite earlier turns (Qwen3, Mistral with a system message), that begin an
answer for the model (DeepSeek-R1) or end the last one otherwise (gpt-oss) work too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import cached_property
from typing import Any

from vram_search.data.chat_abilities import (
    LAST,
    MARK,
    Abilities,
    ChatTemplateError,
    Messages,
    Render,
    takes_text,
    unasked_prompt,
    with_parts,
)
from vram_search.data.chat_messages import Prepared, prepare_messages
from vram_search.data.example import Example

Turns = list[tuple[str, str]]
"""(what is read, what is learnt), turn by turn."""
_Span = tuple[int, int]

HIDDEN = "its answers cannot be found in the text that the chat template makes"


class ChatTurns:
    """Splits conversations into what is read and what is learnt.

    Args:
        render: the chat template; raises ChatTemplateError.
        special_tokens: special tokens of the tokenizer, such as <|im_end|>; the border of a loss
            never divides one.
    """

    def __init__(self, render: Render, special_tokens: Iterable[str] = ()) -> None:
        self.special_tokens = sorted({*special_tokens} - {""}, key=len, reverse=True)
        self._render = render
        self.notes: Counter[str] = Counter()
        """Rows by a sentence about them."""

    @cached_property
    def render(self) -> Render:
        """The template without a generation prompt that was not asked for."""
        render = self._render if takes_text(self._render) else with_parts(self._render)
        return _without(unasked_prompt(render, self.special_tokens), render)

    @cached_property
    def abilities(self) -> Abilities:
        """The messages that the template can write."""
        return Abilities(self.render)

    def split(self, example: Example) -> Turns:
        """The row's turns. An answer without a loss belongs to what is read.

        Raises:
            ChatTemplateError: the template refuses the row, or hides its answers.
        """
        row = prepare_messages(example, self.abilities, self.notes)
        whole = self._render_whole(row)
        turns: Turns = []
        done = cursor = 0
        for index, is_trained in row.answers:
            start, cursor = self._span(row, whole, index, cursor)
            if is_trained:
                turns.append((whole[done:start], whole[start:cursor]))
                done = cursor
        return turns

    def _render_whole(self, row: Prepared) -> str:
        return self._render_with_thoughts(row, row.messages)

    def _render_with_thoughts(self, row: Prepared, messages: Messages) -> str:
        """The text of all messages, with the last answer's thoughts, which a template may drop."""
        if not row.last_thoughts:
            return self.render(messages, row.tools, False)
        text = self.render(_marked(messages, len(messages) - 1, LAST), row.tools, False)
        if text.count(LAST) != 1:
            raise ChatTemplateError(HIDDEN)
        return text.replace(LAST, row.last_thoughts)

    def _span(self, row: Prepared, whole: str, index: int, cursor: int) -> _Span:
        """Start and end of an answer, its end-of-turn token included."""
        for find in (
            self._by_prefix,
            self._by_mark,
            self._by_common_prefix,
            self._by_turn,
            self._by_text,
        ):
            try:
                span = find(row, whole, index, cursor)
            except ChatTemplateError:
                continue  # some templates refuse a part of a conversation
            if span is not None and cursor <= span[0] < span[1]:
                return span
        raise ChatTemplateError(HIDDEN)

    def _by_prefix(self, row: Prepared, whole: str, index: int, cursor: int) -> _Span | None:
        """The turns up to the answer are written as in the whole conversation."""
        before = self.render(row.messages[:index], row.tools, True)
        if not whole.startswith(before):
            return None
        is_last = index + 1 == len(row.messages)
        after = whole if is_last else self.render(row.messages[: index + 1], row.tools, False)
        if not (whole.startswith(after) and after.startswith(before)):
            return None
        return len(before), len(after)

    def _by_mark(self, row: Prepared, whole: str, index: int, cursor: int) -> _Span | None:
        """The text before and after a mark that is written instead of the answer."""
        marked = _marked(row.messages, index, MARK)
        is_last = index + 1 == len(row.messages)
        text = (
            self.render(marked, row.tools, False)
            if is_last
            else self._render_with_thoughts(row, marked)
        )
        if text.count(MARK) != 1:
            return None
        head, tail = text.split(MARK)
        if not whole.endswith(tail):
            return None
        end = len(whole) - len(tail)
        start = min(same_length(whole, head), self._header_end(head, cursor))
        if is_last:
            return start, len(whole)
        return start, end + self._closing_length(tail)

    def _header_end(self, head: str, cursor: int) -> int:
        """Where the model begins to write: after the generation prompt, as far as it is there."""
        prompt = self.abilities.generation_prompt
        if not prompt or head.endswith(prompt):
            return len(head)
        at = head.rfind(prompt, cursor)
        return len(head) if at < 0 else at + len(prompt)

    def _closing_length(self, tail: str) -> int:
        """Characters of `tail` that end the answer and do not begin the next turn."""
        last, between = self.abilities.closings
        if last and tail.startswith(last) and between.startswith(last):
            return len(last)
        for token in self.special_tokens:
            closing = last.removesuffix(token)  # some write an end of text after the last answer
            if (
                closing
                and closing != last
                and between.startswith(closing)
                and tail.startswith(closing)
            ):
                return len(closing)
        return len(self._special_token_at(tail))

    def _special_token_at(self, text: str) -> str:
        return next((token for token in self.special_tokens if text.startswith(token)), "")

    def _by_common_prefix(self, row: Prepared, whole: str, index: int, cursor: int) -> _Span | None:
        """As `_by_prefix`, where the last turn ends with a token of its own (gpt-oss)."""
        before = self.render(row.messages[:index], row.tools, True)
        after = self.render(row.messages[: index + 1], row.tools, False)
        if not (whole.startswith(before) and after.startswith(before)):
            return None
        same = same_length(whole, after)
        for token in self.special_tokens:
            at = len(after) - len(token)
            if after.endswith(token) and at <= same:
                return len(before), at + len(self._special_token_at(whole[at:]))
        return None

    def _by_turn(self, row: Prepared, whole: str, index: int, cursor: int) -> _Span | None:
        """After the turns before the answer, and as much of the generation prompt as is there:
        Gemma 4 writes an empty thought into the prompt that no tool call begins with."""
        before = self.render(row.messages[:index], row.tools, False)
        asked = self.render(row.messages[:index], row.tools, True)
        is_last = index + 1 == len(row.messages)
        after = whole if is_last else self.render(row.messages[: index + 1], row.tools, False)
        if not all(text.startswith(before) for text in (whole, asked, after)):
            return None
        start = self._undivided(asked, same_length(whole, asked))
        if start <= len(before) or not whole.startswith(after):
            return None
        return start, len(after)

    def _by_text(self, row: Prepared, whole: str, index: int, cursor: int) -> _Span | None:
        """The text that the answer has after a short question, where the conversation holds it.

        Mistral's templates write the tools before the last question alone, so that no earlier text
        is a beginning of the whole, and refuse a mark in the place of a call.
        """
        answer = row.messages[index]
        asked = [{"role": "user", "content": MARK}]
        before = self.render(asked, row.tools, True)
        text = self.render([*asked, answer], row.tools, False)
        written = text.removeprefix(before)
        if written in ("", text):
            return None
        if whole.count(written, cursor) != row.messages[index:].count(answer):
            return None
        start = whole.index(written, cursor)
        return start, start + len(written)

    def _undivided(self, text: str, border: int) -> int:
        """The border, or the start of the special token that it would divide."""
        for token in self.special_tokens:
            at = text.find(token, max(0, border - len(token) + 1))
            if 0 <= at < border:
                return at
        return border


def _without(prompt: str, render: Render) -> Render:
    """The template without a generation prompt that was not asked for."""
    if not prompt:
        return render

    def rendered(
        messages: Messages, tools: list[dict[str, Any]] | None, add_generation_prompt: bool
    ) -> str:
        text = render(messages, tools, add_generation_prompt)
        return text if add_generation_prompt else text.removesuffix(prompt)

    return rendered


def _marked(messages: Messages, index: int, mark: str) -> Messages:
    marked = {"role": "assistant", "content": mark}
    return [*messages[:index], marked, *messages[index + 1 :]]


def same_length(one: str, other: str) -> int:
    """Characters that two texts have in common at their beginning."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))
