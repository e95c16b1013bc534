"""Reads a request's body: JSON that every part behind the door can hold."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

from raylm.serve.envelope import bad_request

INT64 = 2**63


def parsed(body: bytes, most_levels: int) -> dict[str, Any]:
    """The object that a body holds.

    Args:
        most_levels: of nesting.

    Raises:
        Refused: it is no JSON object in UTF-8, or says what no machine number and no tokenizer can hold.
    """
    asked = _decoded(body)
    _walk(asked, most_levels)
    return asked


def _decoded(body: bytes) -> dict[str, Any]:
    def constant(name: str) -> NoReturn:
        raise ValueError(f"{name} is no number of JSON")

    if not body:
        raise bad_request("The body is empty; send a JSON object.", code="invalid_json")
    try:
        asked = json.loads(body.decode("utf-8"), parse_constant=constant)
    except UnicodeDecodeError as cause:
        raise bad_request(f"The body is not UTF-8 (byte {cause.start}).", code="invalid_json") from cause
    except RecursionError as cause:
        raise bad_request("The body is nested too deeply.", code="invalid_json") from cause
    except ValueError as cause:
        raise bad_request(f"The body is not JSON: {cause}", code="invalid_json") from cause
    if not isinstance(asked, dict):
        raise bad_request("The body must be a JSON object.", code="invalid_json")
    return asked


def _walk(asked: dict[str, Any], most: int) -> None:
    level: list[Any] = [asked]
    for _ in range(most):
        below: list[Any] = []
        for node in level:
            if isinstance(node, dict):
                for name in node:
                    _check_text(name)
            for child in node.values() if isinstance(node, dict) else node:
                if isinstance(child, (dict, list)):
                    below.append(child)
                elif isinstance(child, str):
                    _check_text(child)
                elif isinstance(child, (int, float)) and not (-INT64 <= child < INT64 and math.isfinite(child)):
                    raise bad_request(f"The number {str(child)[:40]} is out of range.", code="number_out_of_range")
        level = below
        if not level:
            return
    raise bad_request(f"The body is nested more than {most} levels deep.", code="nested_too_deeply")


def _check_text(text: str) -> None:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as cause:
            raise bad_request("A text holds half of a surrogate pair, which is no character.", code="invalid_text") from cause
