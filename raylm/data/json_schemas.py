"""Whether a text is one JSON value that a JSON Schema allows (draft 2020-12, or the draft that it names)."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from raylm.core.errors import DataError

_FENCE = re.compile(r"\s*```(?:json)?[ \t]*\n(.*?)\n?[ \t]*```\s*", re.DOTALL)
_DRAFT = "https://json-schema.org/draft/2020-12/schema"


class Fit(NamedTuple):
    """Whether a text is JSON, whether the schema allows it, and the first thing that does not fit."""

    parses: bool
    fits: bool
    why: str


def fit(text: str, schema: dict[str, Any], fenced: bool = True) -> Fit:
    """Compare the whole of `text` with a schema.

    Args:
        fenced: a value between ``` and ``` counts too.

    Raises:
        DataError: `schema` is none, or refers to what does not stand in it.
    """
    from jsonschema import exceptions, validators
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import EMPTY_REGISTRY

    try:
        checker = validators.validator_for(schema, default=validators.validator_for({"$schema": _DRAFT}))
        checker.check_schema(schema)
    except exceptions.SchemaError as cause:
        raise DataError(f"not a JSON schema: {cause.message}") from cause
    if fenced and (fence := _FENCE.fullmatch(text)):
        text = fence[1]
    try:
        made = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as cause:
        return Fit(False, False, f"no JSON: {cause}")
    # what a schema refers to must stand in it: nothing is fetched
    try:
        wrong = next(iter(checker(schema, registry=EMPTY_REGISTRY).iter_errors(made)), None)
    except Unresolvable as cause:
        raise DataError(f"a JSON schema stands alone, nothing is fetched for it: {cause}") from cause
    except RecursionError:
        # a value that nests as deep as a schema that names itself lets it
        return Fit(True, False, "nests too deep to be compared")
    return Fit(True, True, "fits") if wrong is None else Fit(True, False, f"{wrong.json_path}: {wrong.message}")


def table(found: Any) -> dict[str, Any] | None:
    """A schema as a row has it, a JSON object or its text; None where it is none."""
    if isinstance(found, str):
        try:
            found = json.loads(found)
        except ValueError:
            return None
    return found if isinstance(found, dict) else None


def _refuse(word: str) -> Any:
    raise ValueError(f"{word} is no JSON")
