"""Steps: the union of all cards that process documents one by one: cleaners, scores and filters."""

from typing import Annotated

from pydantic import Field

from raylm.core.config import CustomCard
from raylm.prepare.clean import AnyCleaner
from raylm.prepare.filters import AnyFilter
from raylm.prepare.score import AnyScore

AnyStep = Annotated[AnyCleaner | AnyScore | AnyFilter | CustomCard, Field(discriminator="kind")]
