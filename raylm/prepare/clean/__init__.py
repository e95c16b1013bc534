"""Cleaners: the closed set of cards, by `kind`, that change the text of documents."""

from typing import Annotated

from pydantic import Field

from raylm.core.config import CustomCard
from raylm.prepare.clean.c4_lines import C4Lines
from raylm.prepare.clean.normalize import Normalize
from raylm.prepare.clean.pii import Pii
from raylm.prepare.clean.repair import Repair

AnyCleaner = Annotated[Repair | Normalize | C4Lines | Pii | CustomCard, Field(discriminator="kind")]
