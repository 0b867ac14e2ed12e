"""Parses YAML; every fault of the text is a ParseError."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

from vram_search.parsing.parse_error import HALF_PAIR, MAX_DIGITS, TOO_DEEP, TOO_LONG, ParseError
from vram_search.units import KIB

MAX_YAML_BYTES = 128 * KIB
"""Size of the largest YAML that is read. The largest training file in Axolotl's and LLaMA-Factory's
examples has 5 KiB; PyYAML takes up to 30 s for a MiB of short entries."""
MAX_VALUES = 1_000_000
"""Values that a YAML document may expand to; aliases of aliases would make billions."""
MAX_FLOW_DEPTH = 100
"""Brackets inside one another."""
_LONGEST_SHOWN = 60


@dataclass(frozen=True)
class RepeatedKey:
    """A key that stands twice in one YAML mapping; PyYAML takes the last value."""

    key: str
    first_line: int
    line: int


class _Loader(yaml.SafeLoader):
    """SafeLoader with one kind of error.

    PyYAML's constructors raise AttributeError, KeyError, IndexError, OverflowError and others for a
    value that its tag does not allow, such as `!!bool maybe` (`yaml/constructor.py`).
    """

    def fetch_flow_collection_start(self, TokenClass: type[yaml.Token]) -> None:  # noqa: N803
        """Refuses deep nesting of [ and {: the time that PyYAML takes grows with its square."""
        if self.flow_level >= MAX_FLOW_DEPTH:
            raise ParseError(TOO_DEEP, self.line + 1, self.column + 1)
        super().fetch_flow_collection_start(TokenClass)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
        except (yaml.YAMLError, RecursionError, MemoryError):
            raise
        except Exception:
            kind = node.tag.rpartition(":")[2]
            said = f"{_shortened(node.value)!r} is not a valid {kind}"
            raise yaml.constructor.ConstructorError(None, None, said, node.start_mark) from None
        if type(value) is int and abs(value) >= 10**MAX_DIGITS:
            raise yaml.constructor.ConstructorError(None, None, TOO_LONG, node.start_mark)
        if type(value) is str and _has_half_a_pair(value):
            raise yaml.constructor.ConstructorError(None, None, HALF_PAIR, node.start_mark)
        return value


def parse_yaml(text: str) -> Any:
    """The value of a YAML document; of keys that are repeated the last one counts.

    Raises:
        ParseError: the text is no YAML, or has more than MAX_YAML_BYTES.
    """
    return parse_yaml_strictly(text)[0]


def parse_yaml_strictly(text: str) -> tuple[Any, list[RepeatedKey]]:
    """The value of a YAML document, and the keys that are repeated in a mapping.

    Raises:
        ParseError: see `parse_yaml`.
    """
    size = len(text.encode("utf-8", errors="replace"))
    if size > MAX_YAML_BYTES:
        raise ParseError(
            f"it has {size // KIB} KiB; at most {MAX_YAML_BYTES // KIB} KiB of YAML are read"
        )
    try:
        loader = _Loader(text)
        loader.deep_construct = True  # refuses a value that contains itself
        node = loader.get_single_node()
        if node is None:
            return None, []
        if _expanded_values(node, {}) > MAX_VALUES:
            raise ParseError(f"its aliases expand to more than {MAX_VALUES} values")
        value = loader.construct_document(node)
    except RecursionError:
        raise ParseError(TOO_DEEP) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = error.problem or error.context or "it cannot be parsed"
        line, column = (mark.line + 1, mark.column + 1) if mark else (None, None)
        raise ParseError(problem, line, column) from None
    except yaml.YAMLError as error:  # a character that YAML forbids
        raise ParseError(" ".join(str(error).split())) from None
    except (ValueError, OverflowError) as error:  # an escape such as "\\U00110000"
        raise ParseError(f"a value cannot be read: {error}") from None
    return value, _repeated_keys(node)


def _has_half_a_pair(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def _expanded_values(node: yaml.Node, known: dict[int, int]) -> int:
    """The values of a document once every alias is replaced by what it names."""
    if id(node) not in known:
        known[id(node)] = 1  # of an alias inside its own anchor; the constructor refuses it
        children: list[yaml.Node] = []
        if isinstance(node, yaml.SequenceNode):
            children = node.value
        elif isinstance(node, yaml.MappingNode):
            children = [part for pair in node.value for part in pair]
        known[id(node)] = 1 + sum(_expanded_values(child, known) for child in children)
    return known[id(node)]


def _shortened(value: object) -> str:
    text = value if isinstance(value, str) else type(value).__name__
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def _repeated_keys(root: yaml.Node) -> list[RepeatedKey]:
    found: list[RepeatedKey] = []
    waiting: list[yaml.Node] = [root]
    seen: set[int] = set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue  # an anchor's
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
        elif isinstance(node, yaml.MappingNode):
            lines: dict[str, int] = {}
            for key, value in node.value:
                waiting.append(value)
                if not isinstance(key, yaml.ScalarNode) or key.value == "<<":
                    continue
                line = key.start_mark.line + 1
                if key.value in lines:
                    found.append(RepeatedKey(key.value, lines[key.value], line))
                lines.setdefault(key.value, line)
    return found
