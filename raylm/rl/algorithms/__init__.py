"""RL algorithms: the closed set of cards that an `algorithm` table may name."""

from typing import Annotated

from pydantic import Field

from raylm.core.config import CustomCard
from raylm.rl.algorithms.distill import Distill
from raylm.rl.algorithms.grpo import Grpo

AnyAlgorithm = Annotated[Grpo | Distill | CustomCard, Field(discriminator="kind")]
