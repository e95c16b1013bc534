"""Checkers: the closed set of cards that say whether an answer is right."""

from typing import Annotated

from pydantic import Field

from raylm.core.config import CustomCard
from raylm.evaluate.checkers.code import Code
from raylm.evaluate.checkers.exact import Exact
from raylm.evaluate.checkers.json_schema import JsonSchema
from raylm.evaluate.checkers.numeric import Numeric
from raylm.evaluate.checkers.regex import Regex

AnyChecker = Annotated[Exact | Numeric | Regex | Code | JsonSchema | CustomCard, Field(discriminator="kind")]
