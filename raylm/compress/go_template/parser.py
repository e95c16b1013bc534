"""The tree of a Go template: nodes as text/template/parse has them, and the refusals that Go makes before it runs."""

from __future__ import annotations

from typing import Any, NamedTuple

from raylm.compress.go_template.functions import FUNCTIONS
from raylm.compress.go_template.lexer import KEYWORDS, Token, tokens, unquote
from raylm.core.errors import ConfigError

Body = list[Any]


class TextNode(NamedTuple):
    text: str


class Constant(NamedTuple):
    value: Any


class Nil(NamedTuple):
    pass


class Dot(NamedTuple):
    pass


class Field(NamedTuple):
    """`.a.b`"""

    names: tuple[str, ...]


class Variable(NamedTuple):
    """`$x.a.b`"""

    name: str
    names: tuple[str, ...]


class FunctionNode(NamedTuple):
    name: str


class Chain(NamedTuple):
    """`(pipeline).a.b`"""

    pipe: Any
    names: tuple[str, ...]


class Pipe(NamedTuple):
    """`$x, $y := command | command`"""

    variables: tuple[str, ...]
    assigns: bool
    commands: tuple[tuple[Any, ...], ...]


class Action(NamedTuple):
    pipe: Pipe


class Branch(NamedTuple):
    """`if`, `with` or `range`."""

    type: str
    pipe: Pipe
    body: Body
    otherwise: Body


class Jump(NamedTuple):
    """`break` or `continue`."""

    type: str


class Call(NamedTuple):
    """`{{template "name" pipeline}}`"""

    name: str
    pipe: Pipe | None


class Parser:
    """Reads one template; `templates` holds what it defines, its own body under ""."""

    def __init__(self, source: str) -> None:
        """Raises ConfigError where Go would refuse the template, or where it uses what this reader does not know."""
        self._tokens, self._at = tokens(source), 0
        self._variables, self._loops = ["$"], 0
        self.templates: dict[str, Body] = {}
        self.templates[""] = self._body(("end of template",))[0]

    def _body(self, ends: tuple[str, ...]) -> tuple[Body, str]:
        """Nodes up to one of the closing keywords, and that keyword; its action is still open."""
        nodes: Body = []
        while True:
            token = self._next()
            if token.type == "text":
                nodes.append(TextNode(token.text))
                continue
            if token.type == "end":
                if ends != ("end of template",):
                    raise self._wrong(token, "an {{end}} is missing")
                return nodes, "end of template"
            # the lexer gives the first token of an action next
            self._at -= 1
            self._skip()
            word = self._peek()
            if word.type == "word" and word.text in ("end", "else"):
                if word.text not in ends:
                    raise self._wrong(word, f"unexpected {{{{{word.text}}}}}")
                self._next()
                return nodes, word.text
            if (node := self._node(word)) is not None:
                nodes.append(node)

    def _node(self, word: Token) -> Any:
        if word.type != "word" or word.text not in KEYWORDS:
            pipe = self._pipe()
            self._close()
            return Action(pipe)
        self._next()
        if word.text in ("if", "with", "range"):
            return self._branch(word.text)
        if word.text in ("break", "continue"):
            if not self._loops:
                raise self._wrong(word, f"{{{{{word.text}}}}} outside {{{{range}}}}")
            self._close()
            return Jump(word.text)
        if word.text == "template":
            name = self._string()
            self._skip()
            pipe = None if self._peek().type == "action_end" else self._pipe()
            self._close()
            return Call(name, pipe)
        if word.text in ("define", "block"):
            return self._define(word)
        raise self._wrong(word, f"{word.text} is not a command")

    def _define(self, word: Token) -> Call | None:
        name = self._string()
        pipe = self._pipe() if word.text == "block" else None
        self._close()
        kept, self._variables, loops, self._loops = self._variables, ["$"], self._loops, 0
        self.templates[name], _ = self._body(("end",))
        self._close()
        self._variables, self._loops = kept, loops
        return Call(name, pipe) if word.text == "block" else None

    def _branch(self, kind: str) -> Branch:
        known = len(self._variables)
        pipe = self._pipe(ranges=kind == "range")
        self._close()
        self._loops += kind == "range"
        body, end = self._body(("end", "else"))
        self._loops -= kind == "range"
        otherwise: Body = []
        if end == "else":
            self._skip()
            following = self._peek()
            if following.type == "word" and following.text in ("if", "with") and following.text == kind:
                self._next()
                otherwise = [self._branch(kind)]
                del self._variables[known:]
                return Branch(kind, pipe, body, otherwise)
            self._close()
            otherwise, _ = self._body(("end",))
        self._close()
        del self._variables[known:]
        return Branch(kind, pipe, body, otherwise)

    def _pipe(self, ranges: bool = False) -> Pipe:
        self._skip()
        variables, assigns = self._declared(ranges)
        commands = [self._command()]
        while self._peek().type == "pipe":
            self._next()
            commands.append(self._command())
            if not isinstance(commands[-1][0], (FunctionNode, Field, Variable, Chain)):
                raise self._wrong(self._peek(), f"non executable command in pipeline stage {len(commands)}")
        return Pipe(variables, assigns, tuple(commands))

    def _declared(self, ranges: bool) -> tuple[tuple[str, ...], bool]:
        """The variables that a pipeline sets: `$x :=`, `$x =`, and in a range `$i, $x :=`."""
        start, names = self._at, []
        while self._peek().type == "variable":
            token = self._next()
            names.append(token.text)
            self._skip()
            following = self._peek()
            if following.type in ("declare", "assign"):
                self._next()
                if following.type == "declare":
                    self._variables += names
                for name in names:
                    self._known(token, name)
                return tuple(names), following.type == "assign"
            if not (following.type == "comma" and ranges and len(names) == 1):
                break
            self._next()
            self._skip()
        self._at = start
        return (), False

    def _command(self) -> tuple[Any, ...]:
        self._skip()
        operands = []
        while self._peek().type not in ("pipe", "close", "action_end"):
            operands.append(self._operand())
            if self._peek().type not in ("space", "pipe", "close", "action_end"):
                raise self._wrong(self._peek(), f"unexpected {self._peek().text!r} in operand")
            self._skip()
        if not operands:
            raise self._wrong(self._peek(), "a command is missing")
        if isinstance(operands[0], Nil):
            raise self._wrong(self._peek(), "nil is not a command")
        return tuple(operands)

    def _operand(self) -> Any:
        token = self._next()
        if token.type == "string":
            return Constant(unquote(token.text))
        if token.type == "char":
            return Constant(ord(unquote(token.text)))
        if token.type == "number":
            text = token.text.replace("_", "")
            return Constant(float(text) if "." in text or ("e" in text.lower() and "0x" not in text.lower()) else int(text, 0))
        if token.type == "dot":
            return Dot()
        if token.type == "field":
            return Field((token.text[1:], *self._fields()))
        if token.type == "variable":
            self._known(token, token.text)
            return Variable(token.text, self._fields())
        if token.type == "open":
            pipe = self._pipe()
            if self._next().type != "close":
                raise self._wrong(token, "unclosed left paren")
            return Chain(pipe, self._fields())
        if token.type == "word" and token.text in ("true", "false"):
            return Constant(token.text == "true")
        if token.type == "word" and token.text == "nil":
            return Nil()
        if token.type == "word" and token.text in FUNCTIONS:
            return FunctionNode(token.text)
        raise self._wrong(token, f"{token.text!r} is no function that is known here" if token.type == "word" else
                          f"unexpected {token.text!r} in operand")  # fmt: skip

    def _fields(self) -> tuple[str, ...]:
        names = []
        while self._peek().type == "field":
            names.append(self._next().text[1:])
        return tuple(names)

    def _string(self) -> str:
        self._skip()
        token = self._next()
        if token.type != "string":
            raise self._wrong(token, "the name of a template is missing")
        return unquote(token.text)

    def _known(self, token: Token, name: str) -> None:
        if name not in self._variables:
            raise self._wrong(token, f'undefined variable "{name}"')

    def _close(self) -> None:
        self._skip()
        token = self._next()
        if token.type != "action_end":
            raise self._wrong(token, f"unexpected {token.text!r}")

    def _skip(self) -> None:
        while self._peek().type == "space":
            self._at += 1

    def _peek(self) -> Token:
        return self._tokens[self._at]

    def _next(self) -> Token:
        self._at += 1
        return self._tokens[self._at - 1]

    @staticmethod
    def _wrong(token: Token, said: str) -> ConfigError:
        return ConfigError(said, where=f"line {token.line} of the Go template")
