"""The engine of a pipeline: accumulate, forward, export and state over all its stages.

accumulate: pipeline_schedule -> pipeline runtime -> gradients averaged over data ranks -> gradients of a tied embedding added up
Losses and metrics exist on the last stage's rank, which broadcasts them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from raylm.model.head import LOGPROBS, Asks
from raylm.model.scores import Inputs, Scores
from raylm.parallel.engine import Engine, LossOf, Recipe, _add
from raylm.parallel.mesh import Grid
from raylm.parallel.pipeline.schedule import pipeline_schedule

if TYPE_CHECKING:
    import torch

    from raylm.parallel.pipeline.stages import PipelineStages


class PipelineEngine(Engine):
    """An engine whose model is only this rank's part of it.

    Args:
        model: the part as a strategy wrapped it: sharded by FSDP, or whole on every data rank.
        stages: the stages in it.
    """

    def __init__(self, model: torch.nn.Module, bare: torch.nn.Module, grid: Grid, recipe: Recipe, stages: PipelineStages) -> None:
        from torch.distributed.fsdp import FSDPModule

        self._sharded = [module for module in model.modules() if isinstance(module, FSDPModule)]
        self._stages = stages
        stages.shared()  # marks the copy, now that the wrapper has made its parameters and before the optimizer sorts them
        super().__init__(model, bare, grid, recipe, autocast=None if self._sharded else recipe.compute_dtype())

    def accumulate(self, inputs: Sequence[Inputs], loss: LossOf, asks: Asks = LOGPROBS) -> dict[str, float]:
        import torch.distributed as dist

        sums: dict[str, Any] = {}

        def last(micro: int, answer_BTC: torch.Tensor) -> torch.Tensor:
            result = loss(micro, Scores.of(answer_BTC, asks))
            _add(sums, result.metrics)
            return result.total * self.grid.averaged

        self._hold(True)
        self._run(inputs, last, asks, learn=True)
        self._reduce()
        metrics = [{name: float(value) for name, value in sums.items()}]
        dist.broadcast_object_list(metrics, group=self._group, group_src=self._stages.place[-1])
        return self._summed(metrics[0])

    def forward(self, inputs: Sequence[Inputs], asks: Asks = LOGPROBS) -> list[Scores]:
        import torch
        import torch.distributed as dist

        answers = [torch.empty(*one.target_BT.shape, asks.width, device=self.device) for one in inputs]

        def last(micro: int, answer_BTC: torch.Tensor) -> torch.Tensor:
            answers[micro] = answer_BTC.contiguous()
            return answer_BTC

        was = self.model.training
        self.model.eval()
        with torch.no_grad():
            self._run(inputs, last, asks, learn=False)
        self.model.train(was)
        for module in self._sharded:
            module.reshard()
        for answer_BTC in answers:
            dist.broadcast(answer_BTC, group=self._group, group_src=self._stages.place[-1])
        return [Scores.of(answer_BTC, asks) for answer_BTC in answers]

    def stream(self) -> Iterator[tuple[str, torch.Tensor]]:
        rank = self.grid.at["pipeline"]
        for source in sorted(set(self._stages.place)):
            if rank == source:
                for name, tensor in self._own():
                    if self.rank == 0:
                        yield name, tensor.cpu()
                    elif self._to_first:
                        _send_named(name, tensor, self._group)
                if source and self._to_first:
                    _send_named(None, None, self._group)
            elif self.rank == 0:
                while (received := _receive_named(source, self.device, self._group)) is not None:
                    yield received

    def _own(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Whole tensors of this rank's stages; of two copies the first stage's, under both names."""
        from raylm.parallel.checkpoints.whole import whole_tensors

        embedding, head = self._stages.names
        for name, tensor in whole_tensors(self.bare):
            if self._is_copy and name == head:
                continue
            yield name, tensor
            if self._stages.copied and name == embedding:
                yield head, tensor

    def state(self) -> dict[str, Any]:
        embedding, head = self._stages.names
        return _renamed(super().state(), head, embedding) if self._is_copy else super().state()

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(_renamed(state, *self._stages.names) if self._is_copy else state)

    @property
    def _group(self) -> Any:
        return self.grid.group("pipeline")

    @property
    def _is_copy(self) -> bool:
        return self._stages.copied and self._stages.has_last

    @property
    def _to_first(self) -> bool:
        """Whether rank 0 is in this rank's pipeline."""
        return not any(at for name, at in self.grid.at.items() if name != "pipeline")

    def _run(self, inputs: Sequence[Inputs], last: Any, asks: Asks, *, learn: bool) -> None:
        from raylm.parallel.pipeline.runtime import PipelineRuntime

        mesh, rank, stages = self.grid.mesh, self.grid.at["pipeline"], self._stages
        schedule = pipeline_schedule(mesh.schedule, mesh.pipeline, len(inputs), mesh.virtual, learn=learn)
        shards = [self._share(one) for one in inputs]
        shapes = [(*shard.inputs.feed["input_ids"].shape, stages.width) for shard in shards]

        def forward(index: int, micro: int, hidden: torch.Tensor | None) -> tuple[torch.Tensor, Any]:
            self.tick()
            one, join = shards[micro]
            if hidden is not None:
                feed = {name: value for name, value in one.feed.items() if name != "input_ids"}
                one = one._replace(feed={**feed, "inputs_embeds": hidden})
            with self._compute():
                if stages.stages[index].last:
                    return last(micro, join(self._answer(one, asks))), stages.seam()
                return self.model(**one.feed, use_cache=False).logits, None

        def select_stage(index: int, micro: int) -> None:
            stages.select_stage(self.bare, stages.stages[index], shapes[micro][1])

        weights = [p for p in self.model.parameters() if p.requires_grad] if learn else None
        PipelineRuntime(
            stages.place, self._group, rank, select_stage, forward, shapes, self._hidden_dtype(), self.device, weights
        ).run(schedule.actions[rank])

    def _hidden_dtype(self) -> torch.dtype:
        """Of hidden states between stages: FSDP casts blocks and what they are given, autocast leaves the residual stream."""
        return (self._recipe.compute_dtype() if self._sharded else None) or next(
            p.dtype for p in self.bare.parameters() if p.is_floating_point()
        )

    def _hold(self, held: bool) -> None:
        """Keep weights gathered and gradients whole while micro batches pass; then let go of both."""
        for module in self._sharded:
            module.set_is_last_backward(not held)
            module.set_reshard_after_backward(not held, recurse=False)
            module.set_requires_gradient_sync(not held, recurse=False)
            if held:
                module.unshard()

    def _reduce(self) -> None:
        """Average gradients over the data ranks, and add up those of a weight that two stages have a copy of."""
        import torch
        import torch.distributed as dist

        from raylm.model.torch_private import reduce_fsdp_gradients

        if self._sharded:
            self._hold(False)
            # passes of several micro batches overlap, so FSDP's own hooks come too early
            reduce_fsdp_gradients(self.model)
        elif self.grid.averaged > 1:
            group = self.grid.group("replicas", "shards", "context")
            for parameter in self.model.parameters():
                if parameter.grad is not None:
                    local = _local(parameter.grad)
                    dist.all_reduce(local, group=group)
                    local.div_(self.grid.averaged)
        shared = self._stages.shared()
        if shared is not None and shared.requires_grad:
            mine = _local(shared.grad)
            other = torch.empty_like(mine)
            there = self._stages.place[-1] if self._stages.has_first else self._stages.place[0]
            for work in dist.batch_isend_irecv(
                [
                    dist.P2POp(dist.isend, mine, group=self._group, group_peer=there),
                    dist.P2POp(dist.irecv, other, group=self._group, group_peer=there),
                ]
            ):
                work.wait()
            mine.add_(other)


def _send_named(name: str | None, tensor: torch.Tensor | None, group: Any) -> None:
    """To the first rank of `group`; no name says that nothing more comes."""
    import torch.distributed as dist

    facts = (None, None) if tensor is None else (tensor.shape, tensor.dtype)
    dist.send_object_list([name, *facts], group=group, group_dst=0)
    if tensor is not None:
        dist.send(tensor.contiguous(), group=group, group_dst=0)


def _receive_named(source: int, device: Any, group: Any) -> tuple[str, torch.Tensor] | None:
    """What `_send_named` sent."""
    import torch
    import torch.distributed as dist

    header: list[Any] = [None, None, None]
    dist.recv_object_list(header, group=group, group_src=source)
    name, shape, dtype = header
    if name is None:
        return None
    tensor = torch.empty(shape, dtype=dtype, device=device)
    dist.recv(tensor, group=group, group_src=source)
    return name, tensor.cpu()


def _local(gradient: Any) -> torch.Tensor:
    return gradient.to_local() if hasattr(gradient, "to_local") else gradient


def _renamed(state: dict[str, Any], old: str, new: str) -> dict[str, Any]:
    """The optimizer's and average's entries of one parameter under another name: what copies hold is the same, and kept once."""
    renamed = {**state, "optimizer": {key.replace(f".{old}.", f".{new}."): value for key, value in state["optimizer"].items()}}
    if "ema" in state:
        renamed["ema"] = {new if name == old else name: value for name, value in state["ema"].items()}
    return renamed
