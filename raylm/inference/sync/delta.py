"""What changed in the weights since the last sync, exactly: positions and new values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from raylm.core.config import Config

if TYPE_CHECKING:
    from raylm.inference.weight_transfer import Sender


class Delta(Config):
    """For generators behind a slow link: 6 bytes for a float32 that changed, 4 for a bfloat16, nothing for one that did not. It
    pays where few values change (bfloat16 weights with a small learning rate), and costs one copy of the weights in the memory
    of the trainer's first rank and of each generator. A generator that does not hold the last weights gets all of them."""

    backend: ClassVar[str] = ""
    """Of vLLM's own weight transfer, which engines are made with where a sync uses it."""

    kind: Literal["delta"] = "delta"
    bucket_mb: int = Field(default=64, gt=0)
    """MB that travel at a time."""

    def check(self, stage: Any) -> None:
        """It fits every stage."""

    def sender(self) -> Sender:
        """What brings the weights, kept from sync to sync in the process that has them."""
        from raylm.inference.weight_transfer import Sender

        return Sender(self.bucket_mb << 20, only="values")
