"""Formats that a checkpoint is written in: the closed set of cards that a `format` table, or `raylm convert --to`, may name."""

from typing import Annotated

from pydantic import Field

from raylm.compress.formats.compressed_tensors import CompressedTensors
from raylm.compress.formats.gguf import Gguf
from raylm.compress.formats.hugging_face import HuggingFace
from raylm.compress.formats.koboldcpp import Koboldcpp
from raylm.compress.formats.lm_studio import LmStudio
from raylm.compress.formats.megatron import Megatron
from raylm.compress.formats.mlx import Mlx
from raylm.compress.formats.ollama import Ollama
from raylm.compress.formats.onnx import Onnx
from raylm.compress.formats.text_generation_webui import TextGenerationWebui
from raylm.core.config import CustomCard

AnyFormat = Annotated[
    CompressedTensors
    | Gguf
    | HuggingFace
    | Koboldcpp
    | LmStudio
    | Megatron
    | Mlx
    | Ollama
    | Onnx
    | TextGenerationWebui
    | CustomCard,
    Field(discriminator="kind"),
]
