"""What every reward card has: a weight, and a name to be reported by."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from itertools import count
from typing import Any, ClassVar

from pydantic import Field

from raylm.core.config import Config, EngineUse, Role, card_kind, resolve
from raylm.core.errors import ConfigError


class Reward(Config):
    """A card of the `rewards` list. Its behaviour is one method, of which any may be async:

    - `score(prompt, completion, ground_truth)`: a Score or a number for one completion,
    - `score_group(prompt, completions, ground_truth)`: a list of them for all completions of a prompt, which may be compared,
    - `score_one(prompt, trajectory)`, `score_all(prompt, trajectories)`: the same with the whole records, which have the
      row's other columns and the tokens that were drawn.

    A card with a `role()` runs in actors of its own, see `raylm.rl.rewards.role_worker`.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    """("ground_truth",): prompts without one are left out; `plan` refuses where none has one."""

    skips_thoughts: ClassVar[bool] = False
    """It looks for an answer behind a thought, and must know by its `opened` whether the prompts begin that."""

    weight: float = Field(default=1.0, allow_inf_nan=False)
    """What its scores are multiplied by before they are added to the others'."""
    name: str | None = Field(default=None, pattern=r"^[A-Za-z][A-Za-z0-9_.-]*$")
    """What its scores are reported as: `reward/<name>`. Its kind where nothing is said, numbered where several have it."""


def names_of(cards: Sequence[Any]) -> list[str]:
    """The name of each reward, no two alike. Example: ["math", "pattern", "pattern_2"]."""
    found: list[str] = []
    for card in cards:
        name = getattr(card, "name", None) or card_kind(resolve(card))
        numbered = (f"{name}_{number}" for number in count(2))
        found.append(name if name not in found else next(other for other in numbered if other not in found))
    return found


def role_of(card: Any) -> Role | None:
    """The role of a reward; None where it has none, and runs in a reward worker."""
    made = resolve(card)
    return made.role() if hasattr(made, "role") else None


def roles_of(cards: Sequence[Any]) -> dict[str, Role]:
    """The roles of rewards, as `reward_<name>`. Of somebody else's cards that cannot be imported here nothing is known."""
    found = {}
    with contextlib.suppress(ConfigError):
        for name, card in zip(names_of(cards), cards, strict=True):
            if role := role_of(card):
                found[f"reward_{name}"] = role
    return found


def engines_of(cards: Sequence[Any]) -> list[EngineUse]:
    """The engines of rewards that have one."""
    found = []
    with contextlib.suppress(ConfigError):
        for card in map(resolve, cards):
            found += card.engines() if hasattr(card, "engines") else []
    return found
