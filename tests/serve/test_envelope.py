"""What of another library's message reaches a client."""

from __future__ import annotations

import pytest

from raylm.serve.envelope import foreign, in_words


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("Input length (600) exceeds 512.", "Input length (600) exceeds 512."),
        ("no file /home/me/models/x/config.json here", "no file <path> here"),
        ("ValueError: bad value", "bad value"),
        ("pydantic_core.ValidationError: 1 error", "1 error"),
        ("too many (parameter=logprobs, value=1000)", "too many"),
        ("n is too large. To raise it set the VLLM_MAX_N variable.", "n is too large."),
        ('"auto" requires --enable-auto-tool-choice to be set', "This endpoint does not serve such a request."),
        ("see https://example.org/a/b for more", "see https://example.org/a/b for more"),
        ("<Thing object at 0x7f00aa>", "<Thing object>"),
        (
            "2 validation errors for Thing\n0.ThingParam\n  Input should be a dictionary [type=dict, input_value=5]\n",
            "Input should be a dictionary",
        ),
        ("", ""),
    ],
)
def test_messages_lose_what_is_the_servers_own(message, words):
    assert in_words(message) == words


def test_a_code_is_always_a_word():
    assert foreign(404, b'{"error": {"message": "x", "code": 404}}').code == "not_found"
    assert foreign(400, b'{"error": {"message": "x", "code": "model_not_found"}}').code == "model_not_found"
    assert foreign(503, b"").retry_after_s
