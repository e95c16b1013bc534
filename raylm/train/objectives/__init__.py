"""Training losses: the closed set of cards that an `objective` table may name."""

from typing import Annotated

from pydantic import Field

from raylm.core.config import CustomCard
from raylm.train.objectives.classification import Classification
from raylm.train.objectives.cpo import Cpo
from raylm.train.objectives.distill import Distill
from raylm.train.objectives.dpo import Dpo
from raylm.train.objectives.kto import Kto
from raylm.train.objectives.masked_lm import MaskedLm
from raylm.train.objectives.next_token import NextToken
from raylm.train.objectives.orpo import Orpo
from raylm.train.objectives.pointwise_reward import PointwiseReward
from raylm.train.objectives.reward import Reward
from raylm.train.objectives.seq2seq import Seq2Seq
from raylm.train.objectives.simpo import Simpo

AnyObjective = Annotated[
    NextToken
    | MaskedLm
    | Seq2Seq
    | Dpo
    | Cpo
    | Simpo
    | Orpo
    | Kto
    | Distill
    | Reward
    | PointwiseReward
    | Classification
    | CustomCard,
    Field(discriminator="kind"),
]
