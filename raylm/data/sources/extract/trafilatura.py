"""The `trafilatura` extractor: slower and more exact."""

from __future__ import annotations

import logging
from typing import Literal

from raylm.core.config import Config
from raylm.core.errors import DataError


class Trafilatura(Config):
    """What FineWeb was made with: slower than resiliparse, less that is no text."""

    kind: Literal["trafilatura"] = "trafilatura"
    favor: Literal["precision", "balance", "recall"] = "precision"
    """Rather lose text, or rather keep what may be none."""
    fast: bool = False
    """Without the second and third algorithm that check the first one."""
    tables: bool = True
    """Keep text in tables."""
    comments: bool = False
    """Keep readers' comments."""

    def extract(self, html: str) -> str:
        """The text, empty when the page has none. Raises DataError where the parser gives up."""
        import trafilatura
        from lxml.etree import LxmlError

        # it logs an error for every page without text, which is counted here anyway
        logging.getLogger("trafilatura").setLevel(logging.CRITICAL)
        try:
            found = trafilatura.extract(
                html,
                fast=self.fast,
                favor_precision=self.favor == "precision",
                favor_recall=self.favor == "recall",
                include_comments=self.comments,
                include_tables=self.tables,
            )
        except (LxmlError, ValueError, RecursionError) as cause:
            raise DataError("extraction_failed", next=str(cause)) from cause
        return found or ""
