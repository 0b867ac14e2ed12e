"""Runs a chat template as transformers does (`utils/chat_template_utils.py`), on a fixed date."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date as Date  # noqa: N812
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from vram_search.data.chat_abilities import ChatTemplateError, Messages, Render


class _Generation(Extension):
    """`{% generation %}` marks answers for transformers; here its body is written as it is."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def template_renderer(template: str, special_tokens: Mapping[str, Any], date: Date) -> Render:
    """The template as a function of messages, tools and whether to add the generation prompt.

    Args:
        special_tokens: `bos_token` and the like, by their names.
        date: for templates that ask for today's.

    Raises:
        ChatTemplateError: it is not valid Jinja. The function raises it where the template refuses
            a conversation.
    """
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = date.strftime
    try:
        compiled = environment.from_string(template)
    except Exception as error:
        raise ChatTemplateError(f"not a valid template: {error}") from None

    def render(
        messages: Messages, tools: list[dict[str, Any]] | None, add_generation_prompt: bool
    ) -> str:
        try:
            return compiled.render(
                **special_tokens,
                messages=messages,
                tools=tools or None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
            )
        except Exception as error:  # a stranger's program may fail in any way
            raise ChatTemplateError(str(error) or type(error).__name__) from None

    return render


def _refuse(message: str) -> None:
    raise TemplateError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Unlike Jinja's own filter it escapes no `<`."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )
