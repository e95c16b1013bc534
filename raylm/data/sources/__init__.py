"""Takes a `kind`, leaves the card that reads raw rows of that kind."""

from typing import Annotated

from pydantic import Field

from raylm.core.config import CustomCard
from raylm.data.sources.hugging_face import HuggingFace
from raylm.data.sources.jsonl import Jsonl
from raylm.data.sources.parquet import Parquet
from raylm.data.sources.python_library import PythonLibrary
from raylm.data.sources.python_questions import PythonQuestions
from raylm.data.sources.text import Text

AnySource = Annotated[
    Text | Jsonl | Parquet | HuggingFace | PythonLibrary | PythonQuestions | CustomCard, Field(discriminator="kind")
]
