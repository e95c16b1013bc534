"""The `muon` optimizer: Muon for hidden matrices, AdamW for the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from raylm.model.value_beside import VALUE_HEAD
from raylm.parallel.optimizers.schedule import Scheduled

if TYPE_CHECKING:
    import torch


class Muon(Scheduled):
    """Momentum orthogonalised by Newton-Schulz (https://kellerjordan.github.io/posts/muon/) for the matrices between
    embedding and output layer; AdamW for both of these, for vectors and for stacked experts. `lr` is that of matrices."""

    kind: Literal["muon"] = "muon"
    lr: float = Field(default=0.02, gt=0)
    """Peak learning rate of matrices."""
    momentum: float = Field(default=0.95, ge=0, lt=1)
    """Decay of the momentum."""
    nesterov: bool = True
    """Look ahead by one step of momentum."""
    match_adamw: bool = False
    """Scale updates to the size of AdamW's (https://arxiv.org/abs/2502.16982), so that `lr` can be AdamW's too."""
    lr_rest: float = Field(default=3e-3, gt=0)
    """Peak learning rate of embedding, output layer and vectors, on the same schedule."""
    betas: tuple[float, float] = (0.8, 0.95)
    """AdamW's decays for these."""

    @property
    def bytes_per_weight(self) -> float:
        return 4.0

    @property
    def bytes_per_end(self) -> float:
        return 8.0  # AdamW's

    def make(self, model: torch.nn.Module) -> torch.optim.Optimizer:
        """An optimizer over the trainable parameters of `model`."""
        import torch

        from raylm.parallel.optimizers.chained import ChainedOptimizer

        # not by `weight`: that of a module whose matrix is cut over ranks is another object each time
        ends = {id(p) for end in _ends(model) for p in end.parameters()}
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        hidden = [(name, p) for name, p in named if p.dim() == 2 and id(p) not in ends]
        rest = [(name, p) for name, p in named if p.dim() != 2 or id(p) in ends]
        matrices = torch.optim.Muon(
            self.split(hidden),
            lr=self.lr,
            momentum=self.momentum,
            nesterov=self.nesterov,
            adjust_lr_fn="match_rms_adamw" if self.match_adamw else "original",
        )
        if not rest:
            return matrices
        others = torch.optim.AdamW(self.split(rest), lr=self.lr_rest, betas=self.betas, fused=True)
        for group in others.param_groups:
            group["lr_scale"] = group.get("lr_scale", 1.0) * self.lr_rest / self.lr
        return ChainedOptimizer(matrices, others)


def _ends(model: Any) -> list[Any]:
    """Embeddings and output layer; of a model that does not name the latter, modules that are as tall as the vocabulary."""
    import torch

    embeddings = [module for module in model.modules() if isinstance(module, torch.nn.Embedding)]
    if hasattr(model, "get_output_embeddings"):
        # the last stage of a pipeline has an output layer and no embedding to measure it by
        beside = [getattr(model, VALUE_HEAD)] if hasattr(model, VALUE_HEAD) else []
        return [*embeddings, *beside, model.get_output_embeddings()]
    tall = {module.num_embeddings for module in embeddings}
    heads = [module for module in model.modules() if isinstance(module, torch.nn.Linear) and module.out_features in tall]
    return [*embeddings, *heads]
