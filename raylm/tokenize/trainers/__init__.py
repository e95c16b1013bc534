"""Tokenizer trainers: the closed set of cards, by `kind`."""

from typing import Annotated

from pydantic import Field

from raylm.tokenize.trainers.bpe import Bpe
from raylm.tokenize.trainers.extend import Extend
from raylm.tokenize.trainers.unigram import Unigram
from raylm.tokenize.trainers.word_piece import WordPiece

AnyTrainer = Annotated[Bpe | Unigram | WordPiece | Extend, Field(discriminator="kind")]
