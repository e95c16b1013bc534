"""Tokens of Go's text/template (https://pkg.go.dev/text/template): text, and what stands between `{{` and `}}`."""

from __future__ import annotations

import re
from typing import NamedTuple

from raylm.core.errors import ConfigError

SPACES = " \t\r\n"
KEYWORDS = ("block", "break", "continue", "define", "else", "end", "if", "range", "nil", "template", "with")
_TOKENS = re.compile(
    r"""(?P<space>[ \t\r\n]+)|(?P<string>"(?:\\.|[^"\\\n])*"|`[^`]*`)|(?P<char>'(?:\\.|[^'\\\n])+')
    |(?P<number>[+-]?(?:0[xX][0-9a-fA-F_]+|[0-9][0-9_]*(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?))
    |(?P<variable>\$\w*)|(?P<field>\.[^\W\d]\w*)|(?P<dot>\.)|(?P<word>[^\W\d]\w*)
    |(?P<declare>:=)|(?P<assign>=)|(?P<pipe>\|)|(?P<open>\()|(?P<close>\))|(?P<comma>,)""",
    re.VERBOSE,
)
_ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\", "'": "'", '"': '"'}
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{3})|(.))", re.DOTALL)


class Token(NamedTuple):
    """`type` is text, end of an action (`}}`), end of the template, or a group of the pattern above."""

    type: str
    text: str
    line: int


def tokens(source: str) -> list[Token]:
    """All tokens of a template; spaces count inside actions, where they part operands.

    Raises:
        ConfigError: an action or a string is not closed, or holds what is no token.
    """
    found: list[Token] = []
    at, trim = 0, False
    while at < len(source):
        start = source.find("{{", at)
        text = source[at : start if start >= 0 else len(source)]
        text = text.lstrip(SPACES) if trim else text
        if start < 0:
            found += [Token("text", text, _line(source, at))] if text else []
            break
        at = start + 2
        if source[at : at + 1] == "-" and source[at + 1 : at + 2] in tuple(SPACES):
            at, text = at + 1, text.rstrip(SPACES)
        found += [Token("text", text, _line(source, start))] if text else []
        at, trim = _comment(source, at) if source[at:].lstrip(SPACES).startswith("/*") else _action(source, at, found)
    return [*found, Token("end", "", _line(source, len(source)))]


def _comment(source: str, at: int) -> tuple[int, bool]:
    """Where a comment's action ends, and whether it trims what follows."""
    end = source.find("*/", at)
    close = re.compile(r"(?:[ \t\r\n]-)?\}\}").match(source, end + 2) if end >= 0 else None
    if close is None:
        raise ConfigError("a comment is not closed by */ and }}", where=f"line {_line(source, at)} of the Go template")
    return close.end(), "-" in close[0]


def _action(source: str, at: int, found: list[Token]) -> tuple[int, bool]:
    """Add the tokens of one action; where it ends, and whether it trims what follows."""
    while True:
        line = _line(source, at)
        if source.startswith("}}", at):
            found.append(Token("action_end", "}}", line))
            return at + 2, False
        if source[at : at + 1] in tuple(SPACES) and source.startswith("-}}", at + 1):
            found.append(Token("action_end", "}}", line))
            return at + 4, True
        token = _TOKENS.match(source, at)
        if token is None:
            said = "an action is not closed" if at >= len(source) else f"{source[at : at + 12]!r} is no token"
            raise ConfigError(said, where=f"line {line} of the Go template")
        kind = str(token.lastgroup)
        # a space before ` -}}` belongs to the trim marker
        end = token.end() - 1 if kind == "space" and source.startswith("-}}", token.end()) else token.end()
        if end > at:
            found.append(Token(kind, source[at:end], line))
        at = end


def unquote(text: str) -> str:
    """The value of a Go string or character constant."""
    if text[0] == "`":
        return text[1:-1].replace("\r", "")
    return _ESCAPE.sub(_escape, text[1:-1])


def _escape(found: re.Match[str]) -> str:
    byte, short, long, octal, letter = found.groups()
    if byte or octal:
        return bytes([int(byte, 16) if byte else int(octal, 8)]).decode("utf-8", "surrogateescape")
    if short or long:
        return chr(int(short or long, 16))
    if letter not in _ESCAPES:
        raise ConfigError(f"\\{letter} is no escape of a Go string")
    return _ESCAPES[letter]


def _line(source: str, at: int) -> int:
    return source.count("\n", 0, at) + 1
