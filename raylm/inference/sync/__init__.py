"""Weight sync: the closed set of cards that `generator.sync` may name, by which new weights come to generators."""

from typing import Annotated

from pydantic import Field

from raylm.inference.sync.delta import Delta
from raylm.inference.sync.ipc import Ipc
from raylm.inference.sync.nccl import Nccl
from raylm.inference.sync.object_store import ObjectStore

AnySync = Annotated[ObjectStore | Delta | Nccl | Ipc, Field(discriminator="kind")]
