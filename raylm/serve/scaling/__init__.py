"""Scaling of an endpoint's models: the closed set of cards that `replicas.policy` may name."""

from typing import Annotated

from pydantic import Field

from raylm.core.config import CustomCard
from raylm.serve.scaling.ongoing import Ongoing
from raylm.serve.scaling.tokens import Tokens

AnyScaling = Annotated[Tokens | Ongoing | CustomCard, Field(discriminator="kind")]
"""How many of a model's replicas a load needs."""
