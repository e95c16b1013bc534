"""Which parameters a pattern of a job file means: by parts of their names, with globs and ranges, or by a regex.

embed_tokens            every parameter of a module of that name
layers.0-11             of the blocks 0 to 11
layers.*.mlp            of each block's mlp
^model\\.layers\\.[0-3]\\.  a regex, searched in the whole name, where the pattern has any of ^ $ \\ ( | +
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase

from raylm.core.config import did_you_mean
from raylm.core.errors import ConfigError

PREFIX = "base_model.model."
_REGEX = re.compile(r"[\^$\\(|+]")
_RANGE = re.compile(r"(\d+)-(\d+)")


def fits(pattern: str, name: str) -> bool:
    """Whether `pattern` means the parameter `name`, below an adapter or not."""
    name = name.removeprefix(PREFIX)
    if _REGEX.search(pattern):
        return re.search(pattern, name) is not None
    asked, parts = pattern.split("."), name.split(".")
    starts = range(len(parts) - len(asked) + 1)
    return any(all(_fits_part(one, parts[at + i]) for i, one in enumerate(asked)) for at in starts)


def check_patterns(patterns: Iterable[str], names: Iterable[str], where: str) -> None:
    """Raises ConfigError for a pattern that means no parameter, or is no regex."""
    known = list(names)
    for pattern in patterns:
        try:
            found = any(fits(pattern, name) for name in known)
        except re.error as cause:
            raise ConfigError(f"{pattern!r} is no regex: {cause}", where=where) from cause
        if not found:
            parts = {part for name in known for part in name.removeprefix(PREFIX).split(".") if not part.isdigit()}
            last = next((part for part in reversed(pattern.split(".")) if part.strip("*0123456789-")), pattern)
            raise ConfigError(
                f"no parameter of the model is called {pattern!r}.{did_you_mean(last, parts)}",
                where=where,
                next='name parts of it: "embed_tokens", "layers.0-11", "layers.*.mlp", or a regex',
            )


def _fits_part(asked: str, part: str) -> bool:
    if found := _RANGE.fullmatch(asked):
        return part.isdigit() and int(found[1]) <= int(part) <= int(found[2])
    return fnmatchcase(part, asked)
