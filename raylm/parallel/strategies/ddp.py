"""The `ddp` strategy: every rank holds the whole model, gradients are averaged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from raylm.parallel.blocks import blocks, separate_experts
from raylm.parallel.engine import Engine, Recipe
from raylm.parallel.mesh import Grid
from raylm.parallel.strategies.strategy import Strategy

if TYPE_CHECKING:
    import torch


class Ddp(Strategy):
    """Distributed data parallel: fastest when the model, its gradients and optimizer fit on one device."""

    kind: Literal["ddp"] = "ddp"

    passes_over_unmet: ClassVar[bool] = True

    def wrap(self, model: torch.nn.Module, grid: Grid, recipe: Recipe) -> Engine:
        """An engine over `model`, which must lie on its device and be the same on every rank."""
        from torch.nn.parallel import DistributedDataParallel

        if grid.averaged == 1 or recipe.optimizer is None:
            return Engine(model, model, grid, recipe, autocast=recipe.compute_dtype())
        if grid.mesh.tensor > 1:
            return Engine(self._replicated(model, grid), model, grid, recipe, autocast=recipe.compute_dtype())
        group = grid.group("replicas", "shards", "context")
        # who waited for the gradient of an expert that no token was sent to, or of a part that text does not meet, would fail in
        # the next step; to look for them where there are none makes torch warn
        wrapped = DistributedDataParallel(model, process_group=group, find_unused_parameters=has_unmet(model))
        return Engine(wrapped, model, grid, recipe, autocast=recipe.compute_dtype())

    def parallelize(self, model: torch.nn.Module, grid: Grid, recipe: Recipe) -> torch.nn.Module:
        """`model` as it is: passes of micro batches overlap in a pipeline, whose engine averages gradients after the last."""
        return model

    def _replicated(self, model: torch.nn.Module, grid: Grid) -> torch.nn.Module:
        """The same with matrices that are cut over tensor ranks, which DistributedDataParallel does not know."""
        from raylm.model.torch_private import replicate

        mesh = grid.flat("replicas_shards_context", "replicas", "shards", "context")
        for part in (*blocks(model), model):
            replicate(part, mesh)
        return model


def has_unmet(model: Any) -> bool:
    """Whether some weights that learn may get no gradient from some rows: as one short row of tokens shows, and by experts that
    are modules of their own. Every rank with the same weights finds the same."""
    import torch

    if separate_experts(model):
        return True
    tokens_BT = torch.arange(3, 11, device=next(model.parameters()).device)[None] % model.config.get_text_config().vocab_size
    more = {"decoder_input_ids": tokens_BT[:, :2]} if getattr(model.config, "is_encoder_decoder", False) else {}
    with torch.compiler.set_stance("force_eager"):
        waiting: list[Any] = [model(input_ids=tokens_BT, use_cache=False, **more).logits.grad_fn]
    seen: set[Any] = set()
    met: set[int] = set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            met.add(id(node.variable))
        waiting += [following for following, _ in node.next_functions]
    return any(p.requires_grad and id(p) not in met for p in model.parameters())
