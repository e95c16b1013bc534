"""Formats that a checkpoint is written in: the closed set of cards that a `format` table, or `raylm convert --to`, may name."""

from typing import Annotated

from pydantic import Field

from raylm.compress.formats.compressed_tensors import CompressedTensors
from raylm.compress.formats.gguf import Gguf
from raylm.compress.formats.hugging_face import HuggingFace
from raylm.compress.formats.megatron import Megatron
from raylm.core.config import CustomCard

AnyFormat = Annotated[CompressedTensors | Gguf | HuggingFace | Megatron | CustomCard, Field(discriminator="kind")]
