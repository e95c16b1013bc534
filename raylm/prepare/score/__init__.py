"""Scores: the closed set of cards, by `kind`, that add columns to documents."""

from typing import Annotated

from pydantic import Field

from raylm.core.config import CustomCard
from raylm.prepare.score.classifier import Classifier
from raylm.prepare.score.endpoint import Endpoint
from raylm.prepare.score.fast_text import FastText
from raylm.prepare.score.language import Language
from raylm.prepare.score.perplexity import Perplexity
from raylm.prepare.score.statistics import Statistics
from raylm.prepare.score.word_list import WordList

AnyScore = Annotated[
    Statistics | Language | WordList | Classifier | FastText | Endpoint | Perplexity | CustomCard, Field(discriminator="kind")
]
