"""Composes a Go template out of the pieces of a Jinja one, and holds both against each other on fifty conversations."""

from __future__ import annotations

from typing import Any, NamedTuple

from raylm.compress.go_template.execute import GoTemplate
from raylm.compress.ollama.conversations import Conversation, conversations
from raylm.compress.ollama.pieces import BEGUN, Gap, Messages, Pieces, find_pieces
from raylm.compress.ollama.prompt import ollama_prompt
from raylm.core.errors import ConfigError, DataError

REFUSAL = "this model's chat template has no place for a message of this role here"
"""Name of a template that is not there: asked for it, Ollama answers with an error that has these words."""
TAKEN = {"blanks": r'" " "\t" "\n" "\r" "\v" "\f"', "lines": r'"\n"'}
# text/template has no function that trims; a template that calls itself on what is left of a text does
LEFT = (
    '{{{{ define "{name}" }}}}{{{{ if . }}}}{{{{ if eq (slice . 0 1) {taken} }}}}{{{{ template "{name}" (slice . 1) }}}}'
    "{{{{ else }}}}{{{{ {inside} }}}}{{{{ end }}}}{{{{ end }}}}{{{{ end }}}}"
)
RIGHT = (
    '{{{{ define "{name}" }}}}{{{{ if . }}}}{{{{ $last := len (slice . 1) }}}}{{{{ if eq (slice . $last) {taken} }}}}'
    '{{{{ template "{name}" (slice . 0 $last) }}}}{{{{ else }}}}{{{{ . }}}}{{{{ end }}}}{{{{ end }}}}{{{{ end }}}}'
)


class Composed(NamedTuple):
    """A Go template that gives what the Jinja template gives."""

    template: str
    conversations: int
    """Those on which both gave the same text."""
    refused: int
    """Those that both refuse: a template without a place for system messages."""
    tail: str
    """What closes an answer."""


class ChatTemplate:
    """A tokenizer's Jinja template.

    Args:
        adds_bos: the program puts the first token before the prompt by itself: it is not written a second time.
    """

    def __init__(self, tokenizer: Any, adds_bos: bool) -> None:
        """Raises ConfigError when there is no template, or one that says the date."""
        source = tokenizer.chat_template
        source = source.get("default") if isinstance(source, dict) else source
        if not source:
            raise ConfigError("the tokenizer has no chat template", next="train on dialogues first, or export without one")
        if "strftime_now" in source:
            raise ConfigError(
                "the chat template writes today's date, Ollama's templates have none in its form",
                next="put a date into the template, or take the line out of it",
            )
        self._tokenizer, self._bos = tokenizer, (tokenizer.bos_token or "") if adds_bos else ""
        self.thinks = "</think>" in source or "reasoning_content" in source

    def render(self, messages: Messages) -> str:
        """The text before the answer, or up to the last word of one that is gone on with; without the first token where the
        program adds it. Raises jinja2.TemplateError where the template refuses the messages."""
        begun = messages[-1]["role"] == "assistant"
        text = str(
            self._tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=not begun, continue_final_message=begun
            )
        )
        if self._bos and not text.startswith(self._bos):
            raise ConfigError(f"the chat template writes no {self._bos}, but the file says that one is added before each prompt")
        return text.removeprefix(self._bos)

    def closing(self) -> str:
        """What stands behind a finished answer, up to the next turn."""
        messages = [{"role": "user", "content": "Zq0x"}, {"role": "assistant", "content": "Zq1x"}]
        return str(self._tokenizer.apply_chat_template(messages, tokenize=False)).rpartition("Zq1x")[2]


def compose(tokenizer: Any, adds_bos: bool = False) -> Composed:
    """A Go template for Ollama that gives what the tokenizer's Jinja template gives.

    Args:
        adds_bos: the first token is put before each prompt by the program that reads the file.

    Raises:
        ConfigError: there is no such template; the message has the first conversation that differs.
    """
    jinja = ChatTemplate(tokenizer, adds_bos)
    pieces = find_pieces(jinja.render, jinja.thinks)
    source = go_source(pieces)
    equal, refused = compare(jinja, GoTemplate(source), conversations(jinja.thinks))
    return Composed(source, equal, refused, jinja.closing())


def go_source(pieces: Pieces) -> str:
    """The Go template that writes these pieces."""
    gaps, go = pieces.gaps, _Writer(pieces.trims)
    late = pieces.system.startswith("last")
    if pieces.system == "last user":
        go.action("$last := 0").action("range $i, $message := .Messages").action('if eq .Role "user"').action("$last = $i")
        go.action("end").action("end")
    go.action('$before := ""').action("range $i, $message := .Messages")
    openings = [('eq $before "assistant"', gaps[Gap("assistant", "user")])]
    if pieces.system == "first":
        go.action('if and (eq .Role "system") (eq $before "")').text(gaps[Gap("", "system")]).value("system", ".Content")
        go.action('else if eq .Role "user"')
        openings.append(('eq $before "system"', gaps[Gap("system", "user")]))
    else:
        go.action('if eq .Role "user"')
    if late:
        last = "eq $i $last" if pieces.system == "last user" else "eq (len (slice $.Messages $i)) 1"
        go.action(f"if and $.System ({last})")
        go.choose([('eq $before "assistant"', gaps[Gap("assistant", "system")])], gaps[Gap("", "system")])
        go.value("system", "$.System").text(gaps[Gap("system", "user")]).action("else")
    go.choose(openings, gaps[Gap("", "user")])
    if late:
        go.action("end")
    go.value("user", ".Content").action('else if and (eq .Role "assistant") (eq $before "user")')
    _answer(go, pieces)
    go.action('else if or (ne .Role "system") (ne $before "")' if late else "else")
    go.action(f'template "{REFUSAL}"').action("end").action("$before = .Role").action("end")
    return go.action('if eq $before "user"').text(gaps[Gap("user", "")]).action("end").source()


def _answer(go: _Writer, pieces: Pieces) -> None:
    """An answer: the last one may be opened in another way, and have a thought."""
    usual, begun = pieces.gaps[Gap("user", "assistant")], pieces.gaps[Gap("user", BEGUN)]
    if pieces.thought or usual != begun or pieces.trims[BEGUN] != pieces.trims["assistant"]:
        go.action("if eq (len (slice $.Messages $i)) 1")
        if pieces.thought:
            go.action("if .Thinking").text(pieces.thought[0]).raw("{{ .Thinking }}").text(pieces.thought[1]).action("else")
        go.text(begun)
        if pieces.thought:
            go.action("end")
        go.value(BEGUN, ".Content").action("else").text(usual).value("assistant", ".Content").action("end")
    else:
        go.text(usual).value("assistant", ".Content")


class _Writer:
    """Builds the source: actions on lines of their own, where no text would lose or win a line break by it."""

    def __init__(self, trims: dict[str, tuple[str, str]]) -> None:
        self._parts: list[str] = []
        self._trims, self._fresh = trims, True
        self._used: set[tuple[str, str]] = set()

    def action(self, code: str) -> _Writer:
        self._parts.append(f"\n{{{{- {code} }}}}" if self._fresh and self._parts else f"{{{{ {code} }}}}")
        self._fresh = True
        return self

    def text(self, said: str) -> _Writer:
        if not said:
            return self
        plain = "{{" not in said and '"""' not in said and all(each.isprintable() or each == "\n" for each in said)
        self._parts.append(said if plain else f"{{{{ {quoted(said)} }}}}")
        self._fresh = False
        return self

    def raw(self, code: str) -> _Writer:
        self._parts.append(code)
        self._fresh = False
        return self

    def value(self, role: str, name: str) -> _Writer:
        """A message's text, trimmed as the template trims it."""
        left, right = self._trims.get(role, ("", ""))
        if not left and not right:
            return self.raw(f"{{{{ {name} }}}}")
        self._used.add((left, right))
        return self.raw(f'{{{{ template "{_name(left, right)}" {name} }}}}')

    def choose(self, cases: list[tuple[str, str]], otherwise: str) -> _Writer:
        """One of several texts."""
        cases = [case for case in cases if case[1] != otherwise]
        for at, (condition, text) in enumerate(cases):
            if at:
                self.action(f"else if {condition}")
            else:
                self.action(f"if {condition}")
            self.text(text)
        if cases and otherwise:
            self.action("else")
        self.text(otherwise)
        return self.action("end") if cases else self

    def source(self) -> str:
        made = [
            RIGHT.format(name=_name("", right), taken=TAKEN[right]) for right in sorted({right for _, right in self._used} - {""})
        ]
        for left, right in sorted(self._used):
            if left:
                inside = f'template "{_name("", right)}" .' if right else "."
                made.append(LEFT.format(name=_name(left, right), taken=TAKEN[left], inside=inside))
        return "".join([*made, *self._parts])


def _name(left: str, right: str) -> str:
    """Of the template that trims so."""
    return " and ".join([f"{left} before"] * bool(left) + [f"{right} behind"] * bool(right))


def quoted(text: str) -> str:
    """A Go string constant of printable ASCII."""
    said = ""
    for each in text:
        if each in '"\\':
            said += "\\" + each
        elif " " <= each <= "~":
            said += each
        else:
            said += f"\\u{ord(each):04x}" if ord(each) < 0x10000 else f"\\U{ord(each):08x}"
    return f'"{said}"'


def compare(jinja: ChatTemplate, go: GoTemplate, talks: list[Conversation]) -> tuple[int, int]:
    """How many conversations give the same text, and how many both refuse. Raises ConfigError on the first that differs."""
    import jinja2

    equal = refused = 0
    for number, talk in enumerate(talks):
        try:
            expected = jinja.render(talk.messages)
        except jinja2.TemplateError:
            expected = None
        try:
            found = ollama_prompt(go, talk.messages)
        except DataError:
            found = None
        if found != expected:
            raise ConfigError(
                _difference(number, talk, expected, found), next="export to gguf: its programs read the Jinja template"
            )
        equal, refused = equal + (expected is not None), refused + (expected is None)
    return equal, refused


def _difference(number: int, talk: Conversation, expected: str | None, found: str | None) -> str:
    if expected is None or found is None:
        return f"conversation {number} {talk.messages!r:.300}: the {'Jinja' if expected is None else 'Go'} template refuses it"
    at = next(
        (at for at, (one, other) in enumerate(zip(expected, found, strict=False)) if one != other), min(len(expected), len(found))
    )
    begin = max(0, at - 30)
    return (
        f"no Go template was found that gives what the chat template gives. Conversation {number} "
        f"({', '.join(message['role'] for message in talk.messages)}) differs at character {at}: "
        f"{expected[begin : at + 40]!r} against {found[begin : at + 40]!r}"
    )
