"""Prompting techniques: the closed set of cards that say how a question is put."""

from typing import Annotated

from pydantic import Field

from raylm.core.config import CustomCard
from raylm.evaluate.techniques.chain_of_thought import ChainOfThought
from raylm.evaluate.techniques.few_shot import FewShot
from raylm.evaluate.techniques.self_consistency import SelfConsistency
from raylm.evaluate.techniques.zero_shot import ZeroShot

AnyTechnique = Annotated[ZeroShot | FewShot | ChainOfThought | SelfConsistency | CustomCard, Field(discriminator="kind")]
