"""Thoughts have the name that clients look for."""

from __future__ import annotations

import json

from raylm.serve.api.reasoning import also_content


def test_a_thought_is_told_under_both_names():
    for thought in ("hm", 'a "quoted" \\ thing', "naïve\n", ""):
        body = json.dumps({"choices": [{"delta": {"content": None, "reasoning": thought}}]}).encode()
        delta = json.loads(also_content(body))["choices"][0]["delta"]
        assert delta == {"content": None, "reasoning": thought, "reasoning_content": thought}


def test_nothing_else_is_touched():
    inside = json.dumps({"message": {"content": '{"reasoning": "x", "reasoning":"y"}', "reasoning": None}}).encode()
    assert also_content(inside) == inside
    assert also_content(b"data: [DONE]\n\n") == b"data: [DONE]\n\n"
