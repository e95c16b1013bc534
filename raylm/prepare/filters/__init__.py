"""Filters: the closed set of cards, by `kind`, that drop documents."""

from typing import Annotated

from pydantic import Field

from raylm.core.config import CustomCard
from raylm.prepare.filters.between import Between
from raylm.prepare.filters.c4_quality import C4Quality
from raylm.prepare.filters.decontaminate import Decontaminate
from raylm.prepare.filters.fineweb_quality import FinewebQuality
from raylm.prepare.filters.gopher_quality import GopherQuality
from raylm.prepare.filters.gopher_repetition import GopherRepetition
from raylm.prepare.filters.length import Length
from raylm.prepare.filters.url_list import UrlList

AnyFilter = Annotated[
    Length | UrlList | Between | GopherQuality | GopherRepetition | C4Quality | FinewebQuality | Decontaminate | CustomCard,
    Field(discriminator="kind"),
]
