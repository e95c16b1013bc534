"""Text extraction: the closed set of cards, by `kind`, that find the main text of an HTML page."""

from typing import Annotated

from pydantic import Field

from raylm.core.config import CustomCard
from raylm.data.sources.extract.resiliparse import Resiliparse
from raylm.data.sources.extract.trafilatura import Trafilatura

AnyExtract = Annotated[Resiliparse | Trafilatura | CustomCard, Field(discriminator="kind")]
