"""Compression methods: the closed set of cards that a `method` table may name."""

from typing import Annotated

from pydantic import Field

from raylm.compress.methods.int4 import Int4
from raylm.compress.methods.int8 import Int8
from raylm.core.config import CustomCard

AnyMethod = Annotated[Int8 | Int4 | CustomCard, Field(discriminator="kind")]
