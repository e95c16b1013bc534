"""Networks to be trained from scratch: the closed set of cards that a `model` table may name; without a `kind`, Llama."""

from typing import Annotated

from pydantic import Discriminator, Tag

from raylm.model.shapes.bert import Bert
from raylm.model.shapes.deepseek_v3 import DeepseekV3
from raylm.model.shapes.llama import Llama
from raylm.model.shapes.qwen2 import Qwen2
from raylm.model.shapes.qwen3 import Qwen3
from raylm.model.shapes.qwen3_moe import Qwen3Moe
from raylm.model.shapes.shape import kind_of
from raylm.model.shapes.t5 import T5

AnyShape = Annotated[
    Annotated[Llama, Tag("llama")]
    | Annotated[Qwen2, Tag("qwen2")]
    | Annotated[Qwen3, Tag("qwen3")]
    | Annotated[Qwen3Moe, Tag("qwen3_moe")]
    | Annotated[DeepseekV3, Tag("deepseek_v3")]
    | Annotated[Bert, Tag("bert")]
    | Annotated[T5, Tag("t5")],
    Discriminator(kind_of),
]
