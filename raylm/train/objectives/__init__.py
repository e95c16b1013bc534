"""Training losses: the closed set of cards that an `objective` table may name."""

from typing import Annotated

from pydantic import Field

from raylm.core.config import CustomCard
from raylm.train.objectives.dpo import Dpo
from raylm.train.objectives.next_token import NextToken

AnyObjective = Annotated[NextToken | Dpo | CustomCard, Field(discriminator="kind")]
