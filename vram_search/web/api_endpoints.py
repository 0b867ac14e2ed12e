"""Lists the endpoints of the REST API from its OpenAPI document, for the page about the API."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Schema = Mapping[str, Any]


@dataclass(frozen=True)
class Input:
    """A parameter of an endpoint, or a field of its body.

    Attributes:
        place: `path`, `query`, `header` or `body`.
        kind: its type in words.
    """

    name: str
    place: str
    kind: str
    is_required: bool
    words: str


@dataclass(frozen=True)
class Endpoint:
    """One method of one path."""

    method: str
    path: str
    words: str
    inputs: list[Input]


def endpoints_by_tag(document: Schema) -> dict[str, list[Endpoint]]:
    """Returns the endpoints of an OpenAPI document under their tags, in its order."""
    found: dict[str, list[Endpoint]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            inputs = [*_parameters(operation), *_body(operation, document)]
            endpoint = Endpoint(method.upper(), path, operation["description"], inputs)
            found.setdefault(operation["tags"][0], []).append(endpoint)
    return found


def _parameters(operation: Schema) -> Iterator[Input]:
    for one in operation.get("parameters", ()):
        words = one.get("description") or one["schema"].get("description", "")
        required = one.get("required", False)
        yield Input(one["name"], one["in"], _kind(one["schema"]), required, words)


def _body(operation: Schema, document: Schema) -> Iterator[Input]:
    content = operation.get("requestBody", {}).get("content", {})
    reference = content.get("application/json", {}).get("schema", {}).get("$ref")
    if reference is None:
        return
    schema = document["components"]["schemas"][reference.rpartition("/")[2]]
    for name, field in schema["properties"].items():
        required = name in schema.get("required", ())
        yield Input(name, "body", _kind(field), required, field.get("description", ""))


def _kind(schema: Schema) -> str:
    """A type in words: "integer or null", "number or eval_loss"."""
    if "anyOf" in schema:
        return " or ".join(_kind(one) for one in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return " or ".join(map(str, schema.get("enum") or [schema["const"]]))
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    return str(
        schema.get("format") or schema.get("type") or schema.get("$ref", "/any").rpartition("/")[2]
    )
