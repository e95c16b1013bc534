"""Reads job files: TOML and overrides to a checked config, or errors that name file and line."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from datetime import time as datetime_time
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from raylm.core.config import Config, did_you_mean
from raylm.core.errors import ConfigError

ConfigT = TypeVar("ConfigT", bound=Config)
Keys = tuple[str | int, ...]

_HEADER = re.compile(r"^\s*\[\[?\s*([^\]]+?)\s*\]\]?")
_KEY = re.compile(r"^\s*([A-Za-z0-9_.\"'-]+)\s*=")


@dataclass(frozen=True)
class Source:
    """A TOML text and the name under which the user knows it."""

    name: str
    text: str
    over: tuple[Source, ...] = ()
    """Files whose keys go over this one's, the last one above all."""

    def where(self, keys: Keys) -> str:
        """`file:line dotted.key` of the deepest part of `keys` that stands in the text."""
        for each in reversed(self.over):
            if each._holds(keys):
                return each.where(keys)
        dotted = ".".join(str(key) for key in keys)
        line = self._line(keys)
        return f"{self.name}:{line} {dotted}" if line else f"{self.name} {dotted}"

    def _holds(self, keys: Keys) -> bool:
        """Whether `keys`, or the card or the list that they are in, were set by this file."""
        found: Any = tomllib.loads(self.text)
        for key in keys:
            if not isinstance(found, dict):
                return True
            if key not in found:
                return "kind" in found
            found = found[key]
        return True

    def _line(self, keys: Keys) -> int | None:
        names = [str(key) for key in keys if not isinstance(key, int)]
        best, depth = None, 0
        table: list[str] = []
        open_key: list[str] = []
        for number, line in enumerate(self.text.splitlines(), 1):
            header, key = _HEADER.match(line), _KEY.match(line)
            if header and not line.lstrip().startswith("[{"):
                table = open_key = _split(header.group(1))
                found = _shared(names, table)
            elif key:
                open_key = table + _split(key.group(1))
                found = _shared(names, open_key)
            else:
                found = _shared(names, open_key)
            # an inline table holds the rest of the path on the line of its key, or on the lines that follow it
            if found == len(open_key) and not header:
                while found < len(names) and re.search(rf"(?<![\w-]){re.escape(names[found])}\s*=", line):
                    found += 1
            if found > depth:
                best, depth = number, found
        return best


def read(path: str | Path, assignments: Sequence[str] = ()) -> tuple[dict[str, Any], Source]:
    """Parse a TOML file, and go over it with `assignments` (`override`).

    Raises:
        ConfigError: it is missing, not UTF-8 or not TOML, or an assignment does not fit.
    """
    data, source = _read(path)
    over = tuple(_read(each)[1] for each in assignments if is_file(each))
    return override(data, assignments), replace(source, over=over)


def _read(path: str | Path) -> tuple[dict[str, Any], Source]:
    name = str(path)
    try:
        text = Path(path).read_text(encoding="utf-8")
        return tomllib.loads(text), Source(name, text)
    except FileNotFoundError as cause:
        near = sorted(str(p) for p in Path("jobs").glob("*.toml"))
        raise ConfigError("no such job file", where=name, next=f"one of: {', '.join(near)}" if near else None) from cause
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, OSError) as cause:
        raise ConfigError(f"not a TOML file: {cause}", where=name) from cause


def is_file(assignment: str) -> bool:
    """Whether this is no `a.b.c=value` but a file of them."""
    return "=" not in assignment and assignment.endswith(".toml")


def expand(assignments: Sequence[str]) -> list[str]:
    """`assignments` with each file in place of which stand its keys. A table that says its kind is one value: it replaces a card
    of another kind as a whole."""
    found = []
    for each in assignments:
        found += [f"{key}={value_text(value)}" for key, value in _leaves(_read(each)[0])] if is_file(each) else [each]
    return found


def _leaves(table: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if "." in key:
            raise ConfigError(f"a key with a dot cannot be set: {key!r}")
        if value == {}:
            raise ConfigError(
                f"{above}{key}: an empty table sets nothing", next="name its keys, or --set KEY={} for an empty one"
            )
        if isinstance(value, dict) and "kind" not in value:
            yield from _leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def override(data: dict[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """`data` with each `a.b.c=value` set; the value is TOML, or a bare string. In place of one may stand a file of them."""
    import copy

    data = copy.deepcopy(data)
    for assignment in expand(assignments):
        _set(data, assignment)
    return data


def _set(data: dict[str, Any], assignment: str) -> None:
    dotted, equals, text = assignment.partition("=")
    if not equals or not dotted:
        raise ConfigError(
            f"--set {assignment!r} is neither key=value nor a .toml file", next="for example --set stages.sft.steps=10"
        )
    *parents, last = dotted.split(".")
    table: Any = data
    for key in parents:
        table = _step_in(table, key, assignment)
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    if isinstance(table, list):
        table[_index(table, last, assignment)] = value
    elif isinstance(table, dict):
        table[last] = value
    else:
        raise ConfigError(f"--set {assignment!r}: {last!r} stands below a value that is no table")


def value_text(value: Any) -> str:
    """`value` as TOML on one line, tables inline. Raises ConfigError for what TOML has not."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(value_text, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key_text(key)} = {value_text(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (date, datetime_time)):
        return value.isoformat()
    raise ConfigError(f"{value!r} has no form in TOML")


def key_text(key: str) -> str:
    """A key as TOML writes it: bare where that is allowed."""
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key, ensure_ascii=False)


def check(kind: type[ConfigT], data: dict[str, Any], source: Source) -> ConfigT:
    """`data` as a `kind`. Raises ConfigError that lists every mistake with its file, line and key."""
    try:
        return kind.model_validate(data)
    except ValidationError as wrong:
        lines = []
        for error in wrong.errors():
            keys = _toml_keys(error["loc"], data, missing=error["type"] == "missing")
            if error["type"] == "union_tag_invalid":
                keys = (*keys, error.get("ctx", {})["discriminator"].strip("'"))
            if error["type"] == "unknown_key":
                keys = (*keys, error.get("ctx", {})["key"])
            lines.append(f"{source.where(keys)}: {_in_words(error)}")
        raise ConfigError("\n".join(dict.fromkeys(lines))) from None


def _in_words(error: Any) -> str:
    """The message of a mistake, reworded where pydantic's own is of little help to an author of TOML."""
    kind, context = error["type"], error.get("ctx", {})
    if kind == "missing":
        return "this key is needed"
    if kind == "union_tag_invalid":
        known = context["expected_tags"].replace("'", "").split(", ")
        return f"no {context['discriminator'].strip(chr(39))} is called {context['tag']!r}.{did_you_mean(context['tag'], known)}"
    if kind == "union_tag_not_found":
        return f"this table does not say its {context['discriminator'].strip(chr(39))}"
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return "a table is needed here, for example {kind = ...}"
    return error["msg"].removeprefix("Value error, ")


def _step_in(table: Any, key: str, assignment: str) -> Any:
    if isinstance(table, list):
        return table[_index(table, key, assignment)]
    if not isinstance(table, dict):
        raise ConfigError(f"--set {assignment!r}: {key!r} stands below a value that is no table")
    return table.setdefault(key, {})


def _index(table: list[Any], key: str, assignment: str) -> int:
    if not key.isdigit() or int(key) >= len(table):
        raise ConfigError(f"--set {assignment!r}: {key!r} is no position in a list of {len(table)}")
    return int(key)


def _toml_keys(loc: tuple[str | int, ...], data: Any, missing: bool) -> Keys:
    """The part of a pydantic location that stands in the file: tags of unions are left out, a missing key is kept."""
    keys: list[str | int] = []
    for position, key in enumerate(loc):
        held: Any = dict(enumerate(data)) if isinstance(data, list) else data
        if isinstance(held, dict) and key in held:
            data = held[key]
        elif not (missing and position == len(loc) - 1):
            continue
        keys.append(key)
    return tuple(keys)


def _split(dotted: str) -> list[str]:
    return [part.strip().strip("\"'") for part in dotted.split(".")]


def _shared(names: list[str], prefix: list[str]) -> int:
    """Length of `prefix` when `names` begins with it, else 0."""
    return len(prefix) if names[: len(prefix)] == prefix else 0
