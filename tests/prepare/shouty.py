"""A custom filter of another package: drops documents that are all upper case."""

from typing import Literal

from raylm.core.config import Config
from raylm.prepare.filters.verdicts import verdicts


class Shouty(Config):
    """Drops documents in upper case."""

    kind: Literal["shouty"] = "shouty"
    word: str = "shouts"

    def judge(self, table):
        return verdicts([self.word if text.isupper() else "" for text in table["text"].to_pylist()])
