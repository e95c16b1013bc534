"""What is typed into `raylm chat`: one line, or several; kept in a file for the next time; and what a terminal may be shown."""

from __future__ import annotations

import json
import os
import sys
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

QUIT = ("/quit", "/exit")
BLOCK = '"""'
"""Opens and closes a question of several lines; so does a backslash at the end of a line, for one more."""
PROMPT, MORE = "> ", ". "
MOST_LINES = 1000

# format characters that join letters and emoji; all others (turns of direction, invisible tags) only mislead the eye
JOINERS = "\u200c\u200d"


def history_file() -> Path:
    """Where what was typed is kept: the user's own state, for nobody else to read."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "raylm" / "chat_history"


class Lines:
    """Questions and commands, from a terminal or a pipe.

    Args:
        source: where they come from; a terminal's own editor is used for stdin.
        say: writes a piece of text.
        history: file of earlier ones, mode 0600; None keeps none.
    """

    def __init__(self, source: TextIO, say: Callable[[str], None], history: Path | None = None) -> None:
        self.live = source.isatty()
        self._source, self._say = source, say
        self._typed = self.live and source is sys.stdin
        self._history = history if self._typed else None
        self._open = False
        """Whether lines before the one that is typed belong to the same question."""
        self._half_typed, self._remember = _line_editor() if self._typed else (str, _forget)
        for line in _read(self._history) if self._history else ():
            self._remember(line)

    def __iter__(self) -> Iterator[str]:
        """Those that are not empty, until /quit or the end. In a terminal, Ctrl-C clears a half-typed line, and a block; two in
        a row leave."""
        stopped = False
        while True:
            try:
                question = self._whole() if self.live else self._line(PROMPT)
            except EOFError:
                self._say("\n")
                return
            except KeyboardInterrupt:
                self._say("\n")
                if not self._half_typed() and not self._open:
                    # what was typed in the same instant is lost to the terminal: one Ctrl-C is not enough to be sure
                    if stopped:
                        return
                    self._say("(Ctrl-C again or Ctrl-D leaves)\n")
                stopped = not self._open
                continue
            finally:
                self._open = False
            stopped = False
            if question is None or question.strip() in QUIT:
                return
            if question.strip():
                self._keep(question.strip())
                yield question.strip()

    def _line(self, prompt: str) -> str | None:
        """Without its end; None at the end of a file."""
        if self._typed:
            return input(prompt)
        line = self._source.readline()
        return line.removesuffix("\n") if line else None

    def _whole(self) -> str | None:
        """One line, or all of a block or of lines that end with a backslash."""
        line = self._line(PROMPT)
        if line is None:
            return None
        if line.strip().startswith(BLOCK):
            return self._block(line.strip().removeprefix(BLOCK))
        parts = []
        while line is not None and line.endswith("\\"):
            parts.append(line[:-1])
            self._open = True
            line = self._line(MORE)
        return "\n".join([*parts, line or ""])

    def _block(self, first: str) -> str:
        parts, line, self._open = [], first, True
        while line is not None and not line.rstrip().endswith(BLOCK):
            parts.append(line)
            line = self._line(MORE)
        last = (line or "").rstrip().removesuffix(BLOCK)
        return "\n".join([*parts, last]).strip("\n")

    def _keep(self, question: str) -> None:
        self._remember(question)
        if self._history is not None:
            try:
                _append(self._history, question)
            except OSError as cause:
                self._say(f"({self._history} cannot be written: {cause.strerror}; what is typed is kept until the end alone)\n")
                self._history = None


def _forget(line: str) -> None:
    """Of a pipe, nothing is kept."""


def _line_editor() -> tuple[Callable[[], str], Callable[[str], None]]:
    """Line editing, where Python was built with it; what is pasted stays one question, line ends and all. Returns what tells the
    text of the line that Ctrl-C ended, and what adds a line to those that the arrow keys bring back."""
    try:
        import readline
    except ImportError:
        return str, _forget
    if "libedit" not in (readline.__doc__ or ""):
        readline.parse_and_bind("set enable-bracketed-paste on")
    # a question of several lines is brought back whole
    readline.set_auto_history(False)
    return readline.get_line_buffer, readline.add_history


def _read(file: Path) -> list[str]:
    """Earlier lines, the last ones; one that cannot be read is left out. A file that has grown long is cut."""
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    kept = []
    for line in lines[-MOST_LINES:]:
        try:
            said = json.loads(line)
        except ValueError:
            continue
        kept += [said] if isinstance(said, str) else []
    if len(lines) > 2 * MOST_LINES:
        rest = file.with_suffix(".new")
        rest.unlink(missing_ok=True)
        for said in kept:
            _append(rest, said)
        rest.replace(file)
    return kept


def _append(file: Path, line: str) -> None:
    """One line of JSON: a question may have ends of lines in it. The file is its owner's alone, from its first byte on."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    at = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    with os.fdopen(at, "w", encoding="utf-8", errors="backslashreplace") as opened:
        os.fchmod(at, 0o600)
        opened.write(json.dumps(line) + "\n")


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
