"""Proves on a model itself what its tokens see: nothing of what follows them, nothing of other documents of their row.

A few tokens go through it twice, with another token in one place. What must not depend on that token must not move. This finds
what lists of families cannot: layers that pass no boundaries on to their attention, state-space layers, convolutions, encoders.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from raylm.core.errors import ConfigError
from raylm.model.attention import Boundaries, install, refused_documents
from raylm.model.load import is_composite

if TYPE_CHECKING:
    import torch

LENGTH = 8
# what the changed token's own logits moved by, times this, is rounding: experts meet other numbers of tokens
ROUNDING = {"float32": 1e-5, "bfloat16": 2e-2}


def check_documents(model: Any, asked: str) -> None:
    """Raises ConfigError when `model`, whole and on this rank, would not keep the documents of a row apart.

    Args:
        asked: what needs that, as the job says it: `document_mask`, `mesh.context`.
    """
    reason = refused_documents(model)
    if reason is None:
        install(model)
        # each token is a document of its own: none may move another
        reason = "a token sees other documents in some of its layers" if _moves(model, 0, apart=True) else None
    if reason:
        raise ConfigError(
            f"{asked} cannot keep documents apart in this model: {reason}",
            where=f"model_type {model.config.model_type}",
            next=f"drop {asked}, or take a model whose layers all attend",
        )


def refused_prefixes(model: Any) -> str | None:
    """Why `model`, whole and on this rank, takes no sequences that go on from one document of their row; None when it does."""
    import torch

    if is_composite(model.config):
        return f"{type(model).__name__} has parts beside its language model"
    if reason := refused_documents(model):
        return reason
    install(model)
    # 3 tokens, and two documents of 2 and 3 tokens that go on from them
    tokens_T, device = _tokens(model)[0], next(model.parameters()).device
    document_BT, prefix_BT, position_BT = (
        torch.tensor([x], device=device) for x in ([0, 0, 0, 1, 1, 2, 2, 2], [0] * LENGTH, [0, 1, 2, 3, 4, 3, 4, 5])
    )
    boundaries = Boundaries(document_BT, prefix_BT)
    laid_T = _logits(model, input_ids=tokens_T[None], position_ids=position_BT, boundaries=boundaries)[0]
    alone = [torch.cat([tokens_T[:3], tokens_T[at]]) for at in (slice(3, 5), slice(5, 8))]
    one, other = (_logits(model, input_ids=each[None])[0] for each in alone)
    far = (laid_T - torch.cat([one, other[3:]])).abs().max()
    # other kernels compute other shapes: a thousandth in float32, a twentieth in bfloat16
    if float(far) > min(100 * _rounding(model), 0.05) * float(laid_T.abs().max()):
        return "sequences that share what they begin with are not what they are alone"
    return None


def check_causal(model: Any) -> None:
    """Raises ConfigError when a token of `model`, whole and on this rank, sees what it is to predict.

    Also where a forward pass changes weights, as RWKV's does while it is not training: they would be exported so.
    """
    before = [p._version for p in model.parameters()]
    sees = _moves(model, LENGTH - 1, apart=False)
    if [p._version for p in model.parameters()] != before:
        raise ConfigError(
            f"{type(model).__name__} changes its own weights in a forward pass",
            where=f"model_type {model.config.model_type}",
            next="take another model, or set rescale_every = 0 in its config.json where it has that",
        )
    if sees:
        raise ConfigError(
            f"a token of {type(model).__name__} sees those that follow it, so it cannot learn to predict them",
            where=f"model_type {model.config.model_type}",
            next="take a causal model, or an objective for what this one is (masked_lm, seq2seq)",
        )


def check_padding(model: Any) -> None:
    """Raises ConfigError when what stands behind a row, masked as padding, moves the logits of a masked model or of a decoder."""
    import torch

    tokens_BT = _tokens(model)
    mask_BT = torch.ones_like(tokens_BT)
    mask_BT[:, LENGTH // 2 :] = 0
    feed = {"decoder_input_ids": tokens_BT[:, :2]} if getattr(model.config, "is_encoder_decoder", False) else {}
    one, other = (
        _logits(model, input_ids=tokens_BT[:, :length], attention_mask=mask_BT[:, :length], **feed)[:, : LENGTH // 2]
        for length in (LENGTH // 2, LENGTH)
    )
    if float((one - other).abs().max()) > 100 * _rounding(model) * float(one.abs().max()):
        raise ConfigError(
            f"{type(model).__name__} sees the padding of a row, so the loss of a row would depend on the rows beside it",
            where=f"model_type {model.config.model_type}",
            next="take another model",
        )


def _moves(model: Any, place: int, apart: bool) -> bool:
    """Whether the logits of other tokens than that at `place` change when it does; `apart` makes each token a document."""
    import torch

    tokens_BT = _tokens(model).repeat(2, 1)
    tokens_BT[1, place] = tokens_BT[0, place - 1]
    feed = {}
    if apart:
        number_BT = torch.arange(LENGTH, device=tokens_BT.device)[None]
        feed = {"position_ids": torch.zeros_like(number_BT), "boundaries": Boundaries(number_BT)}
    # one after the other: in one batch a row's products would be rounded by its place in it
    one, other = (_logits(model, input_ids=row_T[None], **feed)[0] for row_T in tokens_BT)
    moved_T = (one - other).abs().amax(-1)
    own = float(moved_T[place])
    moved_T[place] = 0.0
    return float(moved_T.max()) > _rounding(model) * max(own, 1e-6)


def _tokens(model: Any) -> torch.Tensor:
    import torch

    device = next(model.parameters()).device
    return torch.arange(3, 3 + LENGTH, device=device)[None] % model.config.get_text_config().vocab_size


def _logits(model: Any, **feed: Any) -> torch.Tensor:
    """Logits of a pass in evaluation mode, float32; the model is left as it was.

    Raises:
        ConfigError: it cannot be fed with tokens alone, in this mode or while it trains.
    """
    import torch

    was = model.training
    try:
        with torch.no_grad():
            # some ask for more while they train
            model.train()(use_cache=False, **feed)
            return model.eval()(use_cache=False, **feed).logits.float()
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, NotImplementedError, RuntimeError) as cause:
        raise ConfigError(
            f"{type(model).__name__} does not run on tokens alone: {' '.join(str(cause).split())[:200]}",
            where=f"model_type {model.config.model_type}",
            next="take another model",
        ) from cause
    finally:
        model.train(was)


def _rounding(model: Any) -> float:
    dtype = next(p.dtype for p in model.parameters() if p.is_floating_point())
    return ROUNDING[str(dtype).removeprefix("torch.")]
