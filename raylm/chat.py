"""Takes an endpoint's address and key, leaves a conversation in the terminal; needs neither torch nor ray."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any, TextIO

QUIT = ("/quit", "/exit")
FRESH = "/new"
ANSWER_S = 300.0


def chat(
    url: str,
    key: str | None = None,
    model: str | None = None,
    *,
    max_tokens: int | None = None,
    temperature: float | None = None,
    lines: TextIO | None = None,
    say: Callable[[str], None] | None = None,
) -> int:
    """Talk to an OpenAI-compatible endpoint. Answers stream as they come, and the conversation is kept.

    Args:
        url: base URL, with /v1.
        model: name to ask for; default: the first that the endpoint lists.
        max_tokens: longest answer; default: what the model's context has room for.
        lines: where questions come from; default stdin. What is no terminal is answered line by line, without prompts.
        say: writes a piece of text; default stdout.

    Returns:
        0, or 1 when the endpoint refused or could not be reached.
    """
    from openai import OpenAI, OpenAIError

    source: TextIO = lines or sys.stdin
    say = say or _write
    client = OpenAI(base_url=url, api_key=key or "none", timeout=ANSWER_S, max_retries=0)
    try:
        model = model or client.models.list().data[0].id
    except (OpenAIError, IndexError) as refusal:
        say(f"{reason(refusal, url)}\n")
        return 1
    live = source.isatty()
    if live:
        say(f"{model} at {url}. {FRESH} starts over, {QUIT[0]} or Ctrl-D ends.\n")
    history: list[Any] = []
    failed = False
    for question in _questions(source, live, say):
        if question == FRESH:
            history = []
            continue
        asked = [*history, {"role": "user", "content": question}]
        try:
            asked_for = {"max_tokens": max_tokens, "temperature": temperature}
            options: Any = {name: value for name, value in asked_for.items() if value is not None}
            answer = _stream(client.chat.completions.create(model=model, messages=asked, stream=True, **options), say)
            history = [*asked, {"role": "assistant", "content": answer}]
        except KeyboardInterrupt:
            # the question is dropped with its half answer: the next one should not build on it
            say("\n(stopped)")
        except OpenAIError as refusal:
            failed = True
            say(reason(refusal, url))
        say("\n")
    say(f"next: raylm chat {url} goes on while the endpoint runs\n" if live else "")
    return int(failed)


def reason(refusal: Exception, url: str) -> str:
    """One sentence for what went wrong, and what to do about it where that is known."""
    import openai

    if isinstance(refusal, openai.AuthenticationError):
        return f"{url} does not accept this key; it lies in the file `key` of the endpoint's artifact."
    if isinstance(refusal, openai.APITimeoutError):
        return f"{url} did not answer within {ANSWER_S:g} seconds."
    if isinstance(refusal, openai.APIConnectionError):
        return f"Nothing answers at {url}; is the endpoint running?"
    if isinstance(refusal, openai.APIStatusError):
        return f"The endpoint refused ({refusal.status_code}): {_message(refusal)}"
    if isinstance(refusal, IndexError):
        return f"{url} lists no model; name one."
    return f"The endpoint broke off: {refusal}"


def _message(refusal: Any) -> str:
    body = refusal.body
    return str(body.get("message", body)) if isinstance(body, dict) else str(body or refusal.message)


def _questions(lines: TextIO, live: bool, say: Callable[[str], None]) -> Iterator[str]:
    """Lines that are not empty, until /quit or the end."""
    if live and lines is sys.stdin:
        _arrow_keys()
    while True:
        try:
            line = input("> ") + "\n" if live and lines is sys.stdin else lines.readline()
        except EOFError:
            say("\n")
            return
        except KeyboardInterrupt:
            say("\n")
            return
        if not line or line.strip() in QUIT:
            return
        if line.strip():
            yield line.strip()


def _arrow_keys() -> None:
    """Line editing, where Python was built with it."""
    import contextlib

    with contextlib.suppress(ImportError):
        import readline  # noqa: F401


def _stream(chunks: Any, say: Callable[[str], None]) -> str:
    answer = ""
    for chunk in chunks:
        for choice in chunk.choices:
            piece = choice.delta.content or ""
            answer += piece
            say(piece)
    return answer


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
