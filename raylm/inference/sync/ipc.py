"""All weights within one GPU that trainer and generator share, by CUDA IPC through vLLM's own weight transfer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from raylm.core.config import Config

if TYPE_CHECKING:
    from raylm.inference.gpu_transfer import GpuSender


class Ipc(Config):
    """For one trainer rank and one generator on the same GPU: the generator reads the trainer's memory. The first sync, and the
    first one after a generator was replaced, goes by buckets."""

    backend: ClassVar[str] = "ipc"

    kind: Literal["ipc"] = "ipc"
    bucket_mb: int = Field(default=256, gt=0)
    """MB that travel at a time, or the largest tensor if that is more; one such bucket lies on the GPU."""

    def check(self, stage: Any) -> None:
        """Raises ValueError where trainer and generator do not share one GPU."""
        workers, generator = stage.workers, stage.generator
        if not (workers.count == generator.count == 1 and workers.gpus > 0 and generator.gpus > 0):
            raise ValueError(
                f"generator.sync ipc passes weights within one GPU; there are {workers.count} ranks of {workers.gpus:g} GPU and "
                f"{generator.count} generators of {generator.gpus:g} GPU: let one of each share one, or say "
                f'kind = "nccl" or "object_store"'
            )

    def sender(self) -> GpuSender:
        """What brings the weights, kept from sync to sync in the process that has them."""
        from raylm.inference.gpu_transfer import GpuSender
        from raylm.inference.vllm_private import ipc_trainer

        return GpuSender(ipc_trainer, self.bucket_mb << 20)
