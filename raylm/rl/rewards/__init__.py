"""Rewards: the closed set of cards that a `rewards` list may name."""

from typing import Annotated

from pydantic import Field

from raylm.rl.rewards.answer import Answer
from raylm.rl.rewards.custom import Custom
from raylm.rl.rewards.pattern import Pattern

AnyReward = Annotated[Answer | Pattern | Custom, Field(discriminator="kind")]
