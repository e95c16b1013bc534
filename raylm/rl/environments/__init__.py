"""Environments: the closed set of cards that an `environment` table may name."""

from typing import Annotated

from pydantic import Field

from raylm.core.config import CustomCard
from raylm.rl.environments.calculator import Calculator
from raylm.rl.environments.functions import Functions
from raylm.rl.environments.guess_number import GuessNumber
from raylm.rl.environments.mcp import Mcp

AnyEnvironment = Annotated[Calculator | Functions | GuessNumber | Mcp | CustomCard, Field(discriminator="kind")]
