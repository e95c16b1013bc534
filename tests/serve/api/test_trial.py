"""What is too much to compile is found out in another process, whatever it looks like."""

from __future__ import annotations

import json

import pytest

from raylm.serve.api import trial
from raylm.serve.envelope import Refused


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        ("json", {"type": "object", "properties": {f"p{at}": {"type": "string"} for at in range(390)}}),
        ("json", json.dumps({"type": "object"})),
        ("regex", "(a+)+b"),
        ("grammar", 'root ::= "yes" | "no"'),
        ("choice", [f"label {at}" for at in range(1000)]),
    ],
)
def test_what_compiles_passes(kind, spec):
    trial.check(kind, json.dumps(spec))


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        ("json", {"type": "array", "items": {"type": "string"}, "minItems": 10**9}),
        ("json", {"allOf": [{"type": "string", "pattern": f".*a{at}.*"} for at in range(100)]}),
        ("grammar", "start: T\nT: " + " & ".join(f"/(.*a{at}.*)/" for at in range(200))),
    ],
)
def test_small_texts_that_take_gigabytes_or_minutes_are_refused(kind, spec):
    with pytest.raises(Refused) as refused:
        trial.check(kind, json.dumps(spec))
    assert refused.value.refusal.code == "schema_too_large"


@pytest.mark.parametrize(
    ("kind", "spec", "words"),
    [
        ("json", {"type": "banana"}, "banana"),
        ("json", {"$ref": "#/nowhere"}, "does not exist"),
        ("regex", "(", "unclosed group"),
        ("grammar", "banana", "Expected"),
        # it fits, and would break off in the middle of an answer
        ("json", {"type": "object", "properties": {f"p{at}": {"type": "string"} for at in range(900)}}, "items"),
    ],
)
def test_what_is_wrong_is_said(kind, spec, words):
    with pytest.raises(Refused, match=words):
        trial.check(kind, json.dumps(spec))
