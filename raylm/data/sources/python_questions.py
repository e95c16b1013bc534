"""The `python_questions` source: questions about the kind of Python's public names, with a right and a wrong answer.

Recipe: every public name at the top level of a standard library module is a function, a class, an exception, a
constant or a module; its definition says which. Each kind gets the same number of rows; rare kinds are asked about
in several wordings. Which wording, and which wrong kind, follows from a hash of the name. The right answer can be
learnt from naming conventions (CamelCase, ...Error, UPPER_CASE, lower_case), so a small model gets better at it
within minutes, on names it has not seen.
"""

from __future__ import annotations

import builtins
import json
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from raylm.core.config import Config
from raylm.data.records import Rejected, document
from raylm.data.sources import stdlib
from raylm.data.sources.units import Unit
from raylm.data.tools import in_order

KINDS = ("function", "class", "exception", "constant", "module")
_QUESTIONS = (
    "What kind of thing is `{name}`?",
    "Is `{name}` a function, a class, an exception, a constant or a module?",
    "In Python, what is `{name}`?",
    "Tell me what `{name}` is.",
)
_MAX_CHARS = 40
_KIND_OF = {
    "type": "function",
    "function": {
        "name": "kind_of",
        "description": "Look up what a name is.",
        "parameters": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
    },
}


class PythonQuestions(Config):
    """Preference rows without a download: {prompt, chosen, rejected, answer}, good for dialogues, pairs and prompts; or dialogues
    with a tool."""

    kind: Literal["python_questions"] = "python_questions"
    num_rows: int = Field(default=3000, gt=0)
    """Rows at most; a fifth of them for each kind of name."""
    tools: bool = False
    """Each row is a dialogue in place of a preference: the assistant calls the tool `kind_of`, and answers with what it says."""

    def units(self) -> list[Unit]:
        """One unit: the kinds are balanced over the whole library, which takes about two seconds."""
        return [Unit(tuple(stdlib.modules()))]

    def read(self, unit: Unit) -> Iterator[dict[str, Any] | Rejected]:
        """The rows, in an order that mixes the kinds."""
        found: dict[str, list[tuple[str, stdlib.Name]]] = {kind: [] for kind in KINDS}
        for source, name in [*_library(unit), *_builtins()]:
            if len(name.name) <= _MAX_CHARS:
                found[name.kind].append((source, name))
        rows = []
        for names in found.values():
            names.sort(key=lambda pair: stdlib.order_of(pair[1].name))
            wanted = [(turn, *pair) for turn in range(len(_QUESTIONS)) for pair in names]
            rows += [_row(*one, self.tools) for one in wanted[: max(1, self.num_rows // len(KINDS))]]
        yield from sorted(rows, key=lambda row: stdlib.order_of(row["id"]))[: self.num_rows]


def _library(unit: Unit) -> Iterator[tuple[str, stdlib.Name]]:
    for span in unit.spans:
        with open(span.path, "rb") as file:
            content = file.read()
        seen = set()
        for name in stdlib.public_names(span, content):
            if name.name not in seen:
                seen.add(name.name)
                yield span.source, name


def _builtins() -> Iterator[tuple[str, stdlib.Name]]:
    """Exceptions that are written in C and so have no source: they double the rarest kind."""
    for at, name in enumerate(sorted(vars(builtins))):
        value = getattr(builtins, name)
        if isinstance(value, type) and issubclass(value, BaseException):
            yield "python/builtins", stdlib.Name(name, "exception", at, at + 1)


def _row(turn: int, source: str, name: stdlib.Name, tools: bool) -> dict[str, Any]:
    question = _QUESTIONS[(stdlib.order_of(name.name)[0] + turn) % len(_QUESTIONS)].format(name=name.name)
    record = _dialogue(question, name) if tools else _preference(question, name, turn)
    row = document(source, name.start, name.end, f"{question}\n\n{_answer(name.kind)}", record)
    # two definitions of one name, and all wordings about it, share the stem: the name is held out or it is not
    stem = document(name.name, 0, 0, "")["id"]
    return {**row, "id": f"{stem}-{row['id'][:6]}{turn}", "record": json.dumps(in_order(record), ensure_ascii=False)}


def _preference(question: str, name: stdlib.Name, turn: int) -> dict[str, Any]:
    luck = stdlib.order_of(f"{name.name} {turn}")
    wrong = [kind for kind in KINDS if kind != name.kind][luck[0] % (len(KINDS) - 1)]
    return {
        "prompt": [{"role": "user", "content": question}],
        "chosen": [{"role": "assistant", "content": _answer(name.kind)}],
        "rejected": [{"role": "assistant", "content": _answer(wrong)}],
        "answer": name.kind,
    }


def _dialogue(question: str, name: stdlib.Name) -> dict[str, Any]:
    call = {"type": "function", "function": {"name": "kind_of", "arguments": {"name": name.name}}}
    return {
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "name": "kind_of", "content": name.kind},
            {"role": "assistant", "content": _answer(name.kind)},
        ],
        "tools": [_KIND_OF],
    }


def _answer(kind: str) -> str:
    return f"It is {'an' if kind[0] in 'aeiou' else 'a'} {kind}."
