"""Deduplication: the closed set of cards, by `kind`, that compare documents with each other."""

from typing import Annotated

from pydantic import Field

from raylm.core.config import CustomCard
from raylm.prepare.dedup.exact import Exact
from raylm.prepare.dedup.lines import Lines
from raylm.prepare.dedup.min_hash import MinHash
from raylm.prepare.dedup.semantic import Semantic
from raylm.prepare.dedup.substring import Substring

AnyDedup = Annotated[Exact | Lines | MinHash | Substring | Semantic | CustomCard, Field(discriminator="kind")]
