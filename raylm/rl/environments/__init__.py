"""Environments: the closed set of cards that an `environment` table may name."""

from typing import Annotated

from pydantic import Field

from raylm.core.config import CustomCard
from raylm.rl.environments.calculator import Calculator
from raylm.rl.environments.guess_number import GuessNumber

AnyEnvironment = Annotated[Calculator | GuessNumber | CustomCard, Field(discriminator="kind")]
