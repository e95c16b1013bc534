"""Context parallelism: ranks share the tokens of each row; the model's scores are those of whole rows.

    inputs [B, T] --shard--> t = T / C tokens on each rank --model, attention across ranks--> scores [B, t] --join--> [B, T]

Every rank of the context group is fed the same rows and gets the same scores, so that objectives know nothing of it. The
gradient of `join` is each rank's own part: summed over the ranks it is the gradient of the loss, once.

Shapes: B rows, T tokens of a row, C ranks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from raylm.core.errors import ConfigError
from raylm.model.attention import NAME, installed, refused_documents
from raylm.model.scores import Inputs
from raylm.model.transformers_private import attention_of
from raylm.parallel.mesh import Grid

if TYPE_CHECKING:
    import torch

    from raylm.model.attention_backends import Call

# what a causal model is fed
FED = {"input_ids", "position_ids", "boundaries"}


class ContextShard(NamedTuple):
    """This rank's shard of one micro batch."""

    inputs: Inputs
    """This rank's tokens; `feed` has `across`, which carries attention to the other ranks."""
    join: Callable[[torch.Tensor], torch.Tensor]
    """What the head answered about this rank's tokens [B, t, C] -> about the whole rows [B, T, C]."""


class Context:
    """Shards the tokens of rows over the ranks of one context group.

    Raises:
        ConfigError: the model cannot be sharded by token, or ranks do not divide its heads where `ulysses` is configured.
    """

    def __init__(self, model: Any, grid: Grid) -> None:
        config, method = model.config.get_text_config(), grid.mesh.context_method
        self.ranks, self.rank, self.group = grid.mesh.context, grid.at["context"], grid.group("context")
        heads = config.num_attention_heads // grid.mesh.tensor
        self.ring = method == "ring" or (method == "auto" and heads % self.ranks > 0)
        where = f"model_type {config.model_type}"
        reason = refused_documents(model) or (None if installed(model) else "it does not attend through raylm")
        if reason is None and self.ring and getattr(config, "attention_dropout", 0.0):
            reason = "its attention drops out, which a ring cannot"
        if reason is None and self.ring and attention_of(model) != NAME:
            reason = "a ring attends by its own kernels, `attention` names others"
        if reason:
            raise ConfigError(
                f"mesh.context cannot shard this model's rows: {reason}", where=where, next="leave mesh.context at 1"
            )
        if not self.ring and heads % self.ranks:
            raise ConfigError(
                f"{self.ranks} context ranks do not divide {heads} heads", where=where, next='mesh.context_method = "ring"'
            )

    def shard(self, inputs: Inputs) -> ContextShard:
        """This rank's tokens of whole rows, which must be the same on every rank of the group.

        Raises:
            ConfigError: the model has other inputs than tokens (a mask, another sequence).
        """
        import torch
        from torch.nn.functional import pad

        from raylm.parallel.collectives import gather_from_region

        if strange := set(inputs.feed) - FED:
            raise ConfigError(f"mesh.context cannot shard {', '.join(sorted(strange))}", next="take a causal objective")
        tokens_BT = inputs.feed["input_ids"]
        length, multiple = tokens_BT.shape[1], self.ranks * (2 if self.ring else 1)
        whole = -(-length // multiple) * multiple
        position_BT = inputs.feed.get("position_ids")
        if position_BT is None:
            position_BT = torch.arange(length, device=tokens_BT.device)[None]
        boundaries = inputs.feed.get("boundaries")
        document_BT, prefix_BT = (x if x is None else pad(x, (0, whole - length), value=-1) for x in boundaries or (None, None))
        if self.ring and prefix_BT is not None:
            raise ConfigError("around a ring no two sequences share what they begin with", next="padding_free = false")
        across = Across(self.group, whole, self.ring, document_BT, prefix_BT)
        order_T = across.order_T.to(tokens_BT.device)

        def own(x: torch.Tensor) -> torch.Tensor:
            # [B, T] or [B, T, K]
            return pad(x, (*(0, 0) * (x.dim() - 2), 0, whole - length))[:, order_T].chunk(self.ranks, 1)[self.rank]

        def join(answer_BTC: torch.Tensor) -> torch.Tensor:
            return gather_from_region(answer_BTC, whole, self.group)[:, order_T.argsort()[:length]]

        feed = {"input_ids": own(tokens_BT), "position_ids": own(position_BT), "across": across}
        id_BTK = None if inputs.id_BTK is None else own(inputs.id_BTK)
        return ContextShard(Inputs(feed, own(inputs.target_BT), own(inputs.weight_BT), id_BTK), join)


class Across:
    """Attention of one micro batch between the ranks of a context group.

    Args:
        length: tokens of the rows, a multiple of C (of 2 C around a ring).
        document_BT: documents of the whole rows.
        prefix_BT: what they go on from, see `raylm.model.attention.Boundaries`; not around a ring.

    `order_T` is the place in the row of each token, ranks one after the other.
    """

    def __init__(
        self,
        group: Any,
        length: int,
        ring: bool,
        document_BT: torch.Tensor | None = None,
        prefix_BT: torch.Tensor | None = None,
    ) -> None:
        import torch

        from raylm.parallel.context.ring import Ring

        number_BT = None
        if ring and document_BT is not None:
            number_BT = document_BT.cpu()
            number_BT = number_BT.masked_fill(number_BT < 0, torch.iinfo(number_BT.dtype).max)
        self._group, self._documents = group, {"document_BT": document_BT, "prefix_BT": prefix_BT}
        self._ring = Ring(group, length, document_BT, number_BT) if ring else None
        self.order_T = self._ring.order() if self._ring else torch.arange(length)

    def attend(self, query: Any, key: Any, value: Any, call: Call, inner: Callable[..., Any]) -> Any:
        """[B, H, t, K] of this rank's tokens; the same number of tokens on every rank."""
        if self._ring is not None:
            return self._ring.attend(query, key, value, call)
        from raylm.parallel.context.ulysses import attend

        return attend(query, key, value, call._replace(**self._documents), self._group, inner)


def context_of(model: Any, grid: Grid) -> Context | None:
    """How rows are sharded over the context ranks of `grid`; None when they are not."""
    return Context(model, grid) if grid.mesh.context > 1 else None
