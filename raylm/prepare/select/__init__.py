"""Selection: the closed set of cards, by `kind`, that choose documents over the whole corpus."""

from typing import Annotated

from pydantic import Field

from raylm.core.config import CustomCard
from raylm.prepare.select.buckets import Buckets
from raylm.prepare.select.dsir import Dsir
from raylm.prepare.select.sample import Sample
from raylm.prepare.select.top import Top

AnySelect = Annotated[Top | Buckets | Sample | Dsir | CustomCard, Field(discriminator="kind")]
