"""The device mesh: sizes of the parallel dimensions, each rank's coordinates, process groups.

    rank = ((((pipeline * replicas + replica) * shards + shard) * context + c) * tensor + t)        tensor innermost

data     replicas x shards: ranks that read different rows
shard    shards x context: ranks over which FSDP shards weights (context ranks hold the same rows, so they take part)
expert   part of the shard dimension: shard = expert_shard x expert
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from raylm.core.config import Config
from raylm.core.errors import ConfigError


class Mesh(Config):
    """Sizes of the parallel dimensions; the ranks that these leave over are data parallel."""

    renamed = {"exchange": "context_method"}

    tensor: int = Field(default=1, gt=0)
    """Ranks that share each matrix (tensor parallel); with `sequence` also the tokens between matrices."""
    sequence: bool = True
    """Shard the sequence over the tensor ranks where no matrix is (sequence parallel): less memory, the same communication."""
    context: int = Field(default=1, gt=0)
    """Ranks that share each row's tokens, attention included (context parallel): for long rows."""
    context_method: Literal["auto", "ring", "ulysses"] = "auto"
    """How context ranks attend: keys pass around a ring, or an all-to-all shards heads (ulysses: context must divide heads)."""
    pipeline: int = Field(default=1, gt=0)
    """Stages of consecutive blocks (pipeline parallel)."""
    schedule: Literal["1f1b", "interleaved", "zero_bubble"] = "1f1b"
    """Order of micro batches through the stages; `interleaved` and `zero_bubble` give each rank several shorter stages."""
    virtual: int = Field(default=2, gt=1)
    """Stages of each rank under `interleaved`; `zero_bubble` always has two."""
    expert: int = Field(default=1, gt=0)
    """Ranks that share the experts of each block (expert parallel); a part of the data and context ranks."""
    replicas: int = Field(default=1, gt=0)
    """Groups that hold the whole model each, sharded inside the group (hybrid sharding); 1 shards over all ranks."""

    @model_validator(mode="after")
    def _nothing_is_ignored(self) -> Mesh:
        for key, of in (("context_method", "context"), ("schedule", "pipeline"), ("virtual", "pipeline")):
            value = getattr(self, key)
            if getattr(self, of) == 1 and value != type(self).model_fields[key].default:
                raise ValueError(f"{key} = {value!r} is of {of} ranks, of which there is one: set {of} = 2 or more")
        return self

    def refused(self, world: int) -> str | None:
        """Why `world` ranks cannot form this mesh; None when they can."""
        inner = self.tensor * self.context * self.pipeline
        if world % inner:
            return f"{world} ranks are no multiple of tensor x context x pipeline = {inner}"
        data = world // inner
        if data % self.replicas:
            return f"{data} data ranks are no multiple of replicas = {self.replicas}"
        shard = data // self.replicas * self.context
        if shard % self.expert:
            return f"{shard} ranks of one replica are no multiple of expert = {self.expert}"
        return None

    def build(self, rank: int, world: int, device: str = "cpu") -> Grid:
        """The place of `rank` among `world`. Raises ConfigError when they cannot form this mesh.

        Outside a process group (`world` 1) there are no groups, and every dimension must be 1.
        """
        if reason := self.refused(world):
            raise ConfigError(reason, next="change the stage's `mesh` or `workers.count`")
        return Grid(self, rank, world, device)


class Grid:
    """A rank's place: its coordinate and size in each dimension, and (inside a process group) the meshes of torch."""

    def __init__(self, mesh: Mesh, rank: int, world: int, device: str) -> None:
        self.mesh, self.rank, self.world, self.device = mesh, rank, world, device
        data = world // (mesh.tensor * mesh.context * mesh.pipeline)
        self.sizes = {
            "pipeline": mesh.pipeline,
            "replicas": mesh.replicas,
            "shards": data // mesh.replicas,
            "context": mesh.context,
            "tensor": mesh.tensor,
        }
        self.at: dict[str, int] = {}
        rest = rank
        for name, size in reversed(self.sizes.items()):
            rest, self.at[name] = divmod(rest, size)
        self.data_world = data
        self.data_rank = self.at["replicas"] * self.sizes["shards"] + self.at["shards"]
        self._dense = self._sparse = None

    @property
    def averaged(self) -> int:
        """Ranks over which wrappers average gradients: data x context."""
        return self.data_world * self.mesh.context

    def torch(self, name: str, *names: str) -> Any:
        """DeviceMesh over these dimensions of `sizes`, each as its own dimension. Every rank must call in the same order."""
        from torch.distributed.device_mesh import init_device_mesh

        if self._dense is None:
            self._dense = init_device_mesh(self.device, tuple(self.sizes.values()), mesh_dim_names=tuple(self.sizes))
        return self._dense[(name, *names)] if names else self._dense[name]

    def flat(self, name: str, *names: str) -> Any:
        """DeviceMesh of one dimension, called `name`, over all of `names`."""
        from raylm.model.torch_private import flatten_mesh

        return flatten_mesh(self.torch(*names), name) if len(names) > 1 else self.torch(*names)

    def shard(self) -> Any:
        """The mesh that FSDP shards over: [shards x context], or [replicas, shards x context] with hybrid sharding."""
        inner = self.flat("shard", "shards", "context")
        if self.mesh.replicas == 1:
            return inner
        self.torch("replicas")
        return self._root()["replicas", "shard"]

    def sparse(self) -> Any:
        """DeviceMesh [replicas, expert_shard, expert] of the experts' weights; expert is innermost in shards x context."""
        from torch.distributed.device_mesh import init_device_mesh

        if self._sparse is None:
            shard = self.sizes["shards"] * self.mesh.context
            self._sparse = init_device_mesh(
                self.device,
                (self.mesh.pipeline, self.mesh.replicas, shard // self.mesh.expert, self.mesh.expert, self.mesh.tensor),
                mesh_dim_names=("pipeline", "replicas", "expert_shard", "expert", "tensor"),
            )
        return self._sparse

    def group(self, *names: str) -> Any:
        """Process group over these dimensions; None without a process group."""
        import torch.distributed as dist

        if not dist.is_initialized():
            return None
        return self.flat("_".join(names), *names).get_group()

    def _root(self) -> Any:
        assert self._dense is not None
        return self._dense
