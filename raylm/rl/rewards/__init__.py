"""Rewards: the closed set of cards that a `rewards` list may name."""

from typing import Annotated

from pydantic import Field

from raylm.rl.rewards.answer import Answer
from raylm.rl.rewards.code import Code
from raylm.rl.rewards.custom import Custom
from raylm.rl.rewards.engine_judge import EngineJudge
from raylm.rl.rewards.format import Format
from raylm.rl.rewards.function import Function
from raylm.rl.rewards.json_schema import JsonSchema
from raylm.rl.rewards.judge import Judge
from raylm.rl.rewards.length import Length
from raylm.rl.rewards.math import Math
from raylm.rl.rewards.pattern import Pattern
from raylm.rl.rewards.process_reward import ProcessReward
from raylm.rl.rewards.reward_model import RewardModel

AnyReward = Annotated[
    Answer
    | Code
    | Custom
    | EngineJudge
    | Format
    | Function
    | JsonSchema
    | Judge
    | Length
    | Math
    | Pattern
    | ProcessReward
    | RewardModel,
    Field(discriminator="kind"),
]
