"""The `format` reward: whether a completion has its tags, once each, in order, around all that it says."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator

from raylm.rl.rewards.reward import Reward
from raylm.rl.types import Score


class Format(Reward):
    """`<think> ... </think> <answer> ... </answer>`, as DeepSeek-R1 has it (https://arxiv.org/abs/2501.12948 section 2.2.2)."""

    kind: Literal["format"] = "format"
    tags: list[str] = Field(default=["think", "answer"], min_length=1)
    """What must stand, in this order."""
    value: float = Field(default=1.0, allow_inf_nan=False)
    """Reward of a completion that has the form; one that has not gets 0."""
    opened: bool = False
    """The prompt ends with the first tag already opened, as the templates of some models have it."""
    last_is_open: bool = False
    """What follows the other tags needs no tag around it: `["think", "answer"]` then means `<think> ... </think> answer`."""
    partial: bool = False
    """Reward each tag that stands once, opened and closed, with its share of `value`, whatever stands around them."""

    @field_validator("tags")
    @classmethod
    def _are_names(cls, tags: list[str]) -> list[str]:
        for tag in tags:
            if not re.fullmatch(r"[A-Za-z][\w-]*", tag):
                raise ValueError(f"{tag!r} is no name of a tag; write it without < and >")
        if len(set(tags)) < len(tags):
            raise ValueError("a tag is named twice")
        return tags

    def score(self, prompt: str, completion: str, ground_truth: str | None) -> Score:
        """`value`, a share of it, or 0, with the reason."""
        text = f"<{self.tags[0]}>{completion}" if self.opened else completion
        closed = self.tags[:-1] if self.last_is_open else self.tags
        if self.partial:
            whole = [tag for tag in closed if _stands(text, tag)]
            missing = [tag for tag in closed if tag not in whole]
            return Score(self.value * len(whole) / max(len(closed), 1), f"without {missing[0]}" if missing else "has all tags")
        why = self._wrong(text, closed)
        return Score(0.0, why) if why else Score(self.value, "has the form")

    def _wrong(self, text: str, closed: list[str]) -> str:
        for tag in self.tags:
            if tag in closed and not _stands(text, tag):
                return f"has not one {tag}, opened and closed"
            if tag not in closed and (f"<{tag}>" in text or f"</{tag}>" in text):
                return f"has {tag} in tags"
        rest = text
        for tag in closed:
            before, _, rest = rest.partition(f"<{tag}>")
            if before.strip():
                return f"says something before {tag}"
            inside, closes, rest = rest.partition(f"</{tag}>")
            if not closes:
                return f"has {tag} out of order"
            if any(f"<{other}>" in inside or f"</{other}>" in inside for other in closed):
                return f"has another tag inside of {tag}"
        if self.last_is_open and not rest.strip():
            return "says nothing after the tags"
        return "says something after the tags" if rest.strip() and not self.last_is_open else ""


def _stands(text: str, tag: str) -> bool:
    """Whether the tag is opened and closed, once each."""
    opens, closes = f"<{tag}>", f"</{tag}>"
    return text.count(opens) == text.count(closes) == 1 and text.index(opens) < text.index(closes)
