"""How refusals sound, by language: the patterns of phrases.toml, compiled."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from pathlib import Path

_READ = tomllib.loads((Path(__file__).parent / "phrases.toml").read_text(encoding="utf-8"))


def _any(patterns: Iterable[str]) -> str:
    return "|".join(f"(?:{pattern})" for pattern in patterns)


_ENGLISH = [f"{_READ['who']}{_READ['between']} (?:{_any(_READ['negative'])})", *_READ["impersonal"]]

REFUSALS = {name: re.compile(_any(patterns)) for name, patterns in {"en": _ENGLISH, **_READ["refusals"]}.items()}
"""By language."""
_SAID = rf"\b(?:i|we)\b.{{0,20}}{_READ['innocent_negative']} (?:{_any(_READ['innocent'])})"
INNOCENT = re.compile(f"{_SAID}|{_any(_READ['innocent_whole'])}")
"""What looks like a refusal and is none."""
OFFERS, REASONS = re.compile(_any(_READ["offers"])), re.compile(_any(_READ["reasons"]))
"""What stands beside a refusal and gives nothing of what was asked: offers, and why it refuses."""
PIVOTS, GIVES, STATES = re.compile(_any(_READ["pivots"])), re.compile(_any(_READ["gives"])), re.compile(_READ["states"])
"""After what an answer may give what it has just refused; words that hand over, and that tell."""
