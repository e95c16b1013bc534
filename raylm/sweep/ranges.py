"""What a sweep tries: `KEY=a,b,c` names values, `KEY=low..high` a range, of one stage's keys."""

from __future__ import annotations

import math
import tomllib
from typing import Any, NamedTuple

from raylm.core.errors import ConfigError

DECADE = 10.0
"""A range of positive numbers that spans this factor is drawn evenly in its logarithm."""
DRAWN = 8
"""Trials where ranges are drawn from and no number is given."""


class Range(NamedTuple):
    """The values of one key: `choices`, or all from `low` to `high`."""

    key: str
    choices: list[Any]
    low: float = 0.0
    high: float = 0.0
    whole: bool = False
    """Whether they are integers."""

    @property
    def ends(self) -> list[Any]:
        """Values that must fit, or no other does."""
        return self.choices or [self.low, self.high]

    def space(self, drawn: bool) -> Any:
        """Of Ray Tune; `drawn`: one value per trial, and not the whole grid."""
        from ray import tune

        if self.choices:
            return tune.choice(self.choices) if drawn else tune.grid_search(self.choices)
        if self.whole:
            return tune.randint(int(self.low), int(self.high) + 1)
        wide = self.low > 0 and self.high / self.low >= DECADE
        return (tune.loguniform if wide else tune.uniform)(self.low, self.high)


def read(words: list[str]) -> list[Range]:
    """The ranges of `--over` options. Raises ConfigError for what is none."""
    found = [_range(word) for word in words]
    if not found:
        raise ConfigError("nothing is swept over", next="for example --over optimizer.lr=1e-4..1e-2 --over adapter.rank=4,16")
    if len({each.key for each in found}) < len(found):
        raise ConfigError("a key is named twice", where=" ".join(words))
    return found


def num_trials(ranges: list[Range], asked: int | None) -> tuple[int, bool]:
    """How many trials, and whether their values are drawn: a grid of choices alone is run whole unless a number is given."""
    if asked is None and all(each.choices for each in ranges):
        return math.prod(len(each.choices) for each in ranges), False
    return asked or DRAWN, True


def _range(word: str) -> Range:
    key, equals, text = word.partition("=")
    if not equals or not key or not text:
        raise ConfigError(f"--over {word!r} is not KEY=a,b,c or KEY=low..high", next="for example --over optimizer.lr=1e-4..1e-2")
    low, dots, high = text.partition("..")
    if dots:
        try:
            ends = [tomllib.loads(f"value = {end}")["value"] for end in (low, high)]
        except tomllib.TOMLDecodeError:
            ends = []
        if len(ends) != 2 or not all(isinstance(end, (int, float)) and not isinstance(end, bool) for end in ends):
            raise ConfigError(f"--over {word!r}: a range has two numbers", next="for example 1e-4..1e-2")
        if not ends[0] < ends[1]:
            raise ConfigError(f"--over {word!r}: the range is empty")
        return Range(key, [], *ends, whole=all(isinstance(end, int) for end in ends))
    try:
        return Range(key, tomllib.loads(f"value = [{text}]")["value"])
    except tomllib.TOMLDecodeError:
        return Range(key, text.split(","))
