"""All weights, bucket by bucket: through memory that generators on the trainer's machine read in place, and through Ray's object
store to others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from raylm.core.config import Config

if TYPE_CHECKING:
    from raylm.inference.weight_transfer import Sender


class ObjectStore(Config):
    """Any number of generators, on CPUs or GPUs, anywhere; the death of one costs the others nothing."""

    backend: ClassVar[str] = ""
    """Of vLLM's own weight transfer, which engines are made with where a sync uses it."""

    kind: Literal["object_store"] = "object_store"
    bucket_mb: int = Field(default=64, gt=0)
    """MB of weights that travel at a time; two such buckets exist, beside the largest tensor."""
    staged_mb: int = Field(default=1024, ge=0)
    """Weights up to this many MB wait in memory until all of them came, while generation goes on, and are loaded at once: a
    transfer that breaks off changes nothing. Larger ones are loaded as they come, while generation stands still."""
    adapter: bool = False
    """Of a policy that trains an `adapter`, send its matrices alone: generators keep a copy of the base and merge them into it as
    the trainer does. Fewer bytes travel, and each generator has the base in memory twice and merges it anew at every sync, while
    generation stands still: for generators behind a slow link."""

    def check(self, stage: Any) -> None:
        """Raises ValueError where `stage` trains no adapter and one is to be sent."""
        if self.adapter and stage.adapter is None:
            raise ValueError("generator.sync.adapter sends an adapter alone, and no `adapter` is trained: leave it out")

    def sender(self) -> Sender:
        """What brings the weights, kept from sync to sync in the process that has them."""
        from raylm.inference.weight_transfer import Sender

        return Sender(self.bucket_mb << 20, self.staged_mb << 20, only="tensors" if self.adapter else "")
