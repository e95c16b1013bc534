"""Sources: the closed set of cards, by `kind`, that read raw rows."""

from typing import Annotated

from pydantic import Field

from raylm.core.config import CustomCard
from raylm.data.sources.arithmetic_questions import ArithmeticQuestions
from raylm.data.sources.arrow import Arrow
from raylm.data.sources.csv import Csv
from raylm.data.sources.documents import Documents
from raylm.data.sources.html import Html
from raylm.data.sources.hugging_face import HuggingFace
from raylm.data.sources.jsonl import Jsonl
from raylm.data.sources.parquet import Parquet
from raylm.data.sources.python_library import PythonLibrary
from raylm.data.sources.python_questions import PythonQuestions
from raylm.data.sources.text import Text
from raylm.data.sources.warc import Warc

AnySource = Annotated[
    Text
    | Jsonl
    | Csv
    | Parquet
    | Arrow
    | HuggingFace
    | Warc
    | Html
    | Documents
    | PythonLibrary
    | PythonQuestions
    | ArithmeticQuestions
    | CustomCard,
    Field(discriminator="kind"),
]
