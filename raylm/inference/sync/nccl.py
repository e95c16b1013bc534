"""All weights from the trainer's GPU to those of the generators, by NCCL through vLLM's own weight transfer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from raylm.core.config import Config

if TYPE_CHECKING:
    from raylm.inference.gpu_transfer import GpuSender


class Nccl(Config):
    """For trainer and generators on GPUs of their own, on one machine or several: nothing passes through the generators' main
    memory. The first sync, and the first one after a generator was replaced, goes by buckets; a generator that dies in the middle
    of a later one takes the trainer's ranks back to the newest step checkpoint."""

    backend: ClassVar[str] = "nccl"

    kind: Literal["nccl"] = "nccl"
    bucket_mb: int = Field(default=256, gt=0)
    """MB that travel at a time; three such buckets lie on each GPU."""

    def check(self, stage: Any) -> None:
        """Raises ValueError where `stage` has no GPUs for it."""
        if not (stage.generator.gpus >= 1 and stage.workers.gpus >= 1):
            raise ValueError(
                f"generator.sync nccl joins whole GPUs of trainer and generators; workers.gpus is {stage.workers.gpus:g}, "
                f'generator.gpus {stage.generator.gpus:g}: say kind = "object_store", which needs none'
            )

    def sender(self) -> GpuSender:
        """What brings the weights, kept from sync to sync in the process that has them."""
        from raylm.inference.gpu_transfer import GpuSender
        from raylm.inference.vllm_private import nccl_trainer

        return GpuSender(nccl_trainer, self.bucket_mb << 20)
