"""RL algorithms: the closed set of cards that an `algorithm` table may name."""

from typing import Annotated

from pydantic import Field

from raylm.core.config import CustomCard
from raylm.rl.algorithms.cispo import Cispo
from raylm.rl.algorithms.distill import Distill
from raylm.rl.algorithms.grpo import Grpo
from raylm.rl.algorithms.gspo import Gspo
from raylm.rl.algorithms.ppo import Ppo
from raylm.rl.algorithms.reinforce_plus_plus import ReinforcePlusPlus
from raylm.rl.algorithms.reinforce_plus_plus_baseline import ReinforcePlusPlusBaseline
from raylm.rl.algorithms.rloo import Rloo

AnyAlgorithm = Annotated[
    Grpo | Rloo | ReinforcePlusPlus | ReinforcePlusPlusBaseline | Gspo | Cispo | Ppo | Distill | CustomCard,
    Field(discriminator="kind"),
]
