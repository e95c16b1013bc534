"""Takes a `kind`, leaves the card that judges documents that way."""

from typing import Annotated

from pydantic import Field

from raylm.core.config import CustomCard
from raylm.prepare.filters.length import Length
from raylm.prepare.filters.repetition import Repetition

AnyFilter = Annotated[Length | Repetition | CustomCard, Field(discriminator="kind")]
