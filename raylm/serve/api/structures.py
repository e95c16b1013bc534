"""What a request wants its answer held to: JSON of a schema, a regular expression, a grammar or one of some choices."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from raylm.serve.envelope import bad_request

KINDS = ("json", "regex", "grammar", "choice")
UNCOUNTED = {"regex", "grammar"}
PARTS = ("properties", "patternProperties", "$defs", "definitions", "anyOf", "oneOf", "allOf", "prefixItems")
# an optional property takes that many rows; the parser gives up in the middle of an answer at 2000
ROWS = 4


class Structure(NamedTuple):
    """A form that the answer must have. `kind`: json, regex, grammar or choice."""

    kind: str
    spec: Any

    @property
    def has_parts(self) -> bool:
        """Whether it is built of properties and alternatives that can be counted."""
        return self.kind not in UNCOUNTED


def structures(asked: dict[str, Any]) -> list[Structure]:
    """All that a request asks to be compiled, on whichever route. Raises Refused for what is not served."""
    named = asked.get("structured_outputs")
    if named is not None and not isinstance(named, dict):
        raise bad_request("`structured_outputs` must be an object.", "structured_outputs")
    kinds = named or {}
    if kinds.get("structural_tag") is not None:
        raise bad_request("This endpoint does not serve `structural_tag`.", "structured_outputs", "unsupported_parameter")
    found = [Structure(kind, kinds[kind]) for kind in KINDS if kinds.get(kind) is not None]
    # chat's own field, that of /v1/responses, that of Anthropic's shape
    nested = [(asked.get("text"), "format"), (asked.get("output_config"), "format")]
    formats = [asked.get("response_format"), *(each.get(name) for each, name in nested if isinstance(each, dict))]
    for form in formats:
        inner = form.get("json_schema", form) if isinstance(form, dict) else None
        schema = inner.get("schema") if isinstance(inner, dict) else None
        if schema is not None:
            found.append(Structure("json", schema))
    return found


def check_size(structure: Structure, most_bytes: int, most_parts: int) -> None:
    """Raises Refused for a structure that is too large: what it is compiled to grows faster than itself."""
    spec = structure.spec
    size = len(spec.encode()) if isinstance(spec, str) else len(json.dumps(spec))
    if size > most_bytes:
        message = f"The schema, grammar or list of choices has {size} bytes, at most {most_bytes} are taken."
        raise bad_request(message, code="schema_too_large")
    parts = _parts(spec) if structure.has_parts else 0
    if parts > most_parts:
        message = f"The schema has {parts} properties and alternatives, at most {most_parts} are taken."
        raise bad_request(message, code="schema_too_large")


def _parts(spec: Any) -> int:
    """Properties and alternatives in a schema, each of which is some rows of the parser's table; a plain choice is one."""
    if isinstance(spec, str):
        try:
            spec = json.loads(spec)
        except (ValueError, RecursionError):
            return 0
    if isinstance(spec, list):
        return len(spec) // ROWS
    parts, nodes = 0, [spec]
    while nodes:
        node = nodes.pop()
        if isinstance(node, dict):
            parts += sum(len(node[name]) for name in PARTS if isinstance(node.get(name), (dict, list)))
            nodes += [child for name, child in node.items() if name not in ("enum", "const", "examples")]
        elif isinstance(node, list):
            nodes += node
    return parts
