"""Speculative decoding: the closed set of cards that `engine.speculation` may name."""

from typing import Annotated

from pydantic import Field

from raylm.inference.speculation.draft_model import DraftModel
from raylm.inference.speculation.ngram import Ngram

AnySpeculation = Annotated[Ngram | DraftModel, Field(discriminator="kind")]
