"""Compression methods: the closed set of cards that a `method` table may name."""

from typing import Annotated

from pydantic import Field

from raylm.compress.methods.auto_round import AutoRound
from raylm.compress.methods.awq import Awq
from raylm.compress.methods.depth import Depth
from raylm.compress.methods.fp8 import Fp8
from raylm.compress.methods.gptq import Gptq
from raylm.compress.methods.int4 import Int4
from raylm.compress.methods.int8 import Int8
from raylm.compress.methods.mixed import Mixed
from raylm.compress.methods.qad import Qad
from raylm.compress.methods.smooth_quant import SmoothQuant
from raylm.compress.methods.sparse_gpt import SparseGpt
from raylm.compress.methods.wanda import Wanda
from raylm.compress.methods.width import Width
from raylm.core.config import CustomCard

Rounding = Int8 | Int4 | Gptq | Qad | Awq | AutoRound | SmoothQuant | Fp8 | Mixed
Pruning = Wanda | SparseGpt | Depth | Width
AnyMethod = Annotated[Rounding | Pruning | CustomCard, Field(discriminator="kind")]
