"""Takes the stages of one rank, laid over data ranks by a strategy, leaves the engine's verbs over a whole pipeline.

accumulate: timetable -> conveyor -> gradients averaged over data ranks -> gradients of a tied embedding added up
Losses and metrics exist where the last stage is, and are told to the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from raylm.model.scores import Inputs, Scores
from raylm.parallel.engine import Engine, LossOf, Recipe, _add
from raylm.parallel.mesh import Grid
from raylm.parallel.timetable import timetable

if TYPE_CHECKING:
    import torch

    from raylm.parallel.pipeline import Line

TIED, HEAD = "model.embed_tokens.weight", "lm_head.weight"


class PipelineEngine(Engine):
    """An engine whose model is only this rank's part of it.

    Args:
        model: the part as a strategy laid it: cut by FSDP, or whole on every data rank.
        line: the stages in it.
    """

    def __init__(self, model: torch.nn.Module, bare: torch.nn.Module, grid: Grid, recipe: Recipe, line: Line) -> None:
        from torch.distributed.fsdp import FSDPModule

        self._cut = [module for module in model.modules() if isinstance(module, FSDPModule)]
        super().__init__(model, bare, grid, recipe, autocast=None if self._cut else recipe.compute_dtype())
        self._line = line
        line.shared()  # marks the copy, now that the wrapper has made its parameters

    def accumulate(self, inputs: Sequence[Inputs], loss: LossOf, **asked: Any) -> dict[str, float]:
        import torch.distributed as dist

        sums: dict[str, Any] = {}

        def last(micro: int, scores: Scores) -> torch.Tensor:
            made = loss(micro, scores)
            _add(sums, made.metrics)
            return made.total * self.grid.averaged

        self._hold(True)
        self._run(inputs, last, asked, learn=True)
        self._reduce()
        told = [{name: float(value) for name, value in sums.items()}]
        dist.broadcast_object_list(told, group=self._group, group_src=self._line.place[-1])
        return self._summed(told[0])

    def forward(self, inputs: Sequence[Inputs], **asked: Any) -> list[Scores]:
        import torch
        import torch.distributed as dist

        found: list[torch.Tensor] = [torch.empty(len(Scores._fields), *one.target_BT.shape, device=self.device) for one in inputs]

        def last(micro: int, scores: Scores) -> torch.Tensor:
            found[micro] = torch.stack(list(scores))
            return found[micro]

        was = self.model.training
        self.model.eval()
        with torch.no_grad():
            self._run(inputs, last, asked, learn=False)
        self.model.train(was)
        for module in self._cut:
            module.reshard()
        for scores in found:
            dist.broadcast(scores, group=self._group, group_src=self._line.place[-1])
        return [Scores(*scores) for scores in found]

    def weights(self) -> dict[str, torch.Tensor]:
        import torch
        import torch.distributed as dist
        from torch.distributed.checkpoint.state_dict import get_model_state_dict

        mine: dict[str, Any] = get_model_state_dict(self.model)
        if self._line.tied and self._line.has_first:
            mine[HEAD] = mine[TIED]
        rank, place = self.grid.at["pipeline"], sorted(set(self._line.place))
        every: list[Any] = [None] * len(place)
        dist.all_gather_object(every, {name: (t.shape, t.dtype) for name, t in mine.items()}, group=self._group)
        whole: dict[str, torch.Tensor] = {}
        for source in place:
            for name, (shape, dtype) in every[source].items():
                values = None
                if rank == source:
                    # every data and tensor rank of this stage holds a part
                    values = mine[name].full_tensor() if hasattr(mine[name], "full_tensor") else mine[name]
                if source != 0 and rank == 0 and self.rank == 0:
                    values = torch.empty(shape, dtype=dtype, device=self.device)
                    dist.recv(values, group=self._group, group_src=source)
                elif source != 0 and rank == source and self._to_first:
                    assert values is not None
                    dist.send(values.contiguous(), group=self._group, group_dst=0)
                if self.rank == 0 and values is not None:
                    whole.setdefault(name, values.cpu())
        return whole

    def state(self) -> dict[str, Any]:
        return _renamed(super().state(), HEAD, TIED) if self._is_copy else super().state()

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(_renamed(state, TIED, HEAD) if self._is_copy else state)

    @property
    def _group(self) -> Any:
        return self.grid.group("pipeline")

    @property
    def _is_copy(self) -> bool:
        return self._line.copied and self._line.has_last

    @property
    def _to_first(self) -> bool:
        """Whether rank 0 is in this rank's pipeline."""
        return not any(at for name, at in self.grid.at.items() if name != "pipeline")

    def _run(self, inputs: Sequence[Inputs], last: Any, asked: dict[str, Any], *, learn: bool) -> None:
        from raylm.parallel.conveyor import Conveyor

        mesh, rank = self.grid.mesh, self.grid.at["pipeline"]
        table = timetable(mesh.schedule, mesh.pipeline, len(inputs), mesh.virtual, learn=learn)

        def forward(index: int, micro: int, hidden: torch.Tensor | None) -> torch.Tensor:
            stage, one = self._line.stages[index], inputs[micro]
            self._line.become(stage)
            if hidden is not None:
                feed = {name: value for name, value in one.feed.items() if name != "input_ids"}
                one = one._replace(feed={**feed, "inputs_embeds": hidden})
            with self._compute():
                if stage.last:
                    return last(micro, self._ask(one, **asked))
                return self.model(**one.feed, use_cache=False).logits

        Conveyor(
            self._line.place,
            self._group,
            rank,
            forward,
            [(*one.feed["input_ids"].shape, self._line.width) for one in inputs],
            self._passed_dtype(),
            self.device,
            [p for p in self.model.parameters() if p.requires_grad] if learn else None,
        ).run(table.actions[rank])

    def _passed_dtype(self) -> torch.dtype:
        """Of hidden states between stages: FSDP casts blocks and what they are given, autocast leaves the residual stream."""
        return (self._recipe.compute_dtype() if self._cut else None) or next(self.bare.parameters()).dtype

    def _hold(self, held: bool) -> None:
        """Keep weights gathered and gradients whole while micro batches pass; then let go of both."""
        for module in self._cut:
            module.set_is_last_backward(not held)
            module.set_reshard_after_backward(not held, recurse=False)
            module.set_requires_gradient_sync(not held, recurse=False)
            if held:
                module.unshard()

    def _reduce(self) -> None:
        """Average gradients over the data ranks, and add up those of a weight that two stages have a copy of."""
        import torch
        import torch.distributed as dist
        from torch.distributed.fsdp import fully_shard

        if self._cut:
            self._hold(False)
            # as torch.distributed.pipelining does: passes of several micro batches overlap, so FSDP's own hooks come too early
            state: Any = fully_shard.state(self.model)  # type: ignore[attr-defined]
            for one in state._state_ctx.all_states:
                for group in one._fsdp_param_groups:
                    group.post_backward()
            state._root_post_backward_final_callback()
        elif self.grid.averaged > 1:
            group = self.grid.group("replicas", "shards", "context")
            for parameter in self.model.parameters():
                if parameter.grad is not None:
                    local = _local(parameter.grad)
                    dist.all_reduce(local, group=group)
                    local.div_(self.grid.averaged)
        shared = self._line.shared()
        if shared is not None and shared.requires_grad:
            mine = _local(shared.grad)
            other = torch.empty_like(mine)
            there = self._line.place[-1] if self._line.has_first else self._line.place[0]
            for work in dist.batch_isend_irecv(
                [
                    dist.P2POp(dist.isend, mine, group=self._group, group_peer=there),
                    dist.P2POp(dist.irecv, other, group=self._group, group_peer=there),
                ]
            ):
                work.wait()
            mine.add_(other)


def _local(gradient: Any) -> torch.Tensor:
    return gradient.to_local() if hasattr(gradient, "to_local") else gradient


def _renamed(state: dict[str, Any], old: str, new: str) -> dict[str, Any]:
    """The optimizer's entries of one parameter under another name: what copies hold is the same, and is kept once."""
    optimizer = {key.replace(f".{old}.", f".{new}."): value for key, value in state["optimizer"].items()}
    return {**state, "optimizer": optimizer}
