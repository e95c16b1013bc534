"""How weights lie over the data ranks: the closed set of cards that a `strategy` table may name."""

from typing import Annotated

from pydantic import Field

from raylm.core.config import CustomCard
from raylm.parallel.strategies.ddp import Ddp
from raylm.parallel.strategies.deepspeed import Deepspeed
from raylm.parallel.strategies.fsdp import Fsdp

AnyStrategy = Annotated[Ddp | Fsdp | Deepspeed | CustomCard, Field(discriminator="kind")]
