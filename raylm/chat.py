"""`raylm chat`: a conversation with an endpoint in the terminal; needs neither torch nor ray."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Callable, Iterator
from typing import Any, TextIO

QUIT = ("/quit", "/exit")
FRESH = "/new"
ANSWER_S = 300.0

# format characters that join letters and emoji; all others (turns of direction, invisible tags) only mislead the eye
JOINERS = "\u200c\u200d"


class BrokenOff(Exception):
    """The stream of an answer ended before the answer did."""


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
        say: writes a piece of text; default stdout. What the endpoint sends reaches it as `harmless` text.

    Returns:
        0, or 1 when the endpoint refused, broke off or could not be reached.
    """
    from openai import OpenAIError

    from raylm.inference.client import connect

    source: TextIO = lines or sys.stdin
    write = say or _write

    def show(text: str) -> None:
        write(harmless(text))

    client = connect(url, key, ANSWER_S)
    try:
        model = model or client.models.list().data[0].id
    except (OpenAIError, IndexError) as refusal:
        show(f"{reason(refusal, url)}\n")
        return 1
    live = source.isatty()
    if live:
        show(f"{model} at {url}. {FRESH} starts over, Ctrl-C ends an answer, {QUIT[0]} or Ctrl-D leaves.\n")
    history: list[Any] = []
    failed = False
    for question in _questions(source, live, show):
        if question == FRESH:
            history = []
            continue
        asked = [*history, {"role": "user", "content": question}]
        try:
            asked_for = {"max_tokens": max_tokens, "temperature": temperature}
            options: Any = {name: value for name, value in asked_for.items() if value is not None}
            answer = _stream(client.chat.completions.create(model=model, messages=asked, stream=True, **options), show)
            history = [*asked, {"role": "assistant", "content": answer}]
        except KeyboardInterrupt:
            # the question is dropped with its half answer: the next one should not build on it
            show("\n(stopped)")
        except BrokenOff:
            failed = True
            show(f"\n({url} broke off in the middle of the answer; the question is not kept)")
        except OpenAIError as refusal:
            failed = True
            show(reason(refusal, url))
        show("\n")
    show(f"next: raylm chat {url} goes on while the endpoint runs\n" if live else "")
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


def harmless(text: str) -> str:
    """`text` without anything that a terminal obeys: control characters as their pictures (ESC is ␛), other invisible or
    direction-turning characters and lone surrogates as escapes (\\u202e). Line ends and tabs stay."""
    return "".join(map(_shown, text))


def _shown(letter: str) -> str:
    code = ord(letter)
    if letter in "\n\t" or letter in JOINERS:
        return letter
    if code < 0x20 or code == 0x7F:
        return chr(0x2400 + code) if code < 0x20 else "\u2421"
    if unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp"):
        return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
    return letter


def _questions(lines: TextIO, live: bool, say: Callable[[str], None]) -> Iterator[str]:
    """Lines that are not empty, until /quit or the end. In a terminal, Ctrl-C clears a half-typed line; two in a row leave."""
    typed = live and lines is sys.stdin
    half_typed = _line_editor() if typed else str
    stopped = False
    while True:
        try:
            line = input("> ") + "\n" if typed else lines.readline()
        except EOFError:
            say("\n")
            return
        except KeyboardInterrupt:
            say("\n")
            if not half_typed():
                # what was typed in the same instant is lost to the terminal: one Ctrl-C is not enough to be sure
                if stopped:
                    return
                say("(Ctrl-C again or Ctrl-D leaves)\n")
            stopped = True
            continue
        stopped = False
        if not line or line.strip() in QUIT:
            return
        if line.strip():
            yield line.strip()


def _line_editor() -> Callable[[], str]:
    """Line editing, where Python was built with it; what is pasted stays one question, line ends and all. Returns what
    tells the text of the line that Ctrl-C ended."""
    try:
        import readline
    except ImportError:
        return str
    if "libedit" not in (readline.__doc__ or ""):
        readline.parse_and_bind("set enable-bracketed-paste on")
    return readline.get_line_buffer


def _stream(chunks: Any, say: Callable[[str], None]) -> str:
    """The whole answer, said piece by piece. Raises BrokenOff when the connection ends and no chunk said why the answer does."""
    import openai

    answer, ended = "", False
    try:
        for chunk in chunks:
            for choice in chunk.choices:
                piece = choice.delta.content or ""
                answer += piece
                ended = ended or choice.finish_reason is not None
                say(piece)
    except (openai.APIConnectionError, ValueError) as cause:
        # ValueError: half an event, which is no JSON
        raise BrokenOff from cause
    if not ended:
        raise BrokenOff
    return answer


def _write(text: str) -> None:
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
    sys.stdout.flush()
