"""A teacher: a frozen model that answers beside the one that learns. It must read rows of tokens as the same text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from raylm.core.context import Context
from raylm.core.errors import ConfigError
from raylm.core.storage import Folder
from raylm.model.limits import positions
from raylm.model.load import check_start, checkpoint_path, is_composite, load_config, load_model, load_tokenizer
from raylm.model.preflight import Needs, check_kind, check_vocabulary
from raylm.model.same_tokens import other_tokens
from raylm.parallel.group.hang import LOAD
from raylm.trainer.setup import Teacher

if TYPE_CHECKING:
    from raylm.parallel.engine import Engine
    from raylm.parallel.group.ranks import Ranks
    from raylm.trainer.config import TrainerConfig


def find_teacher(
    ctx: Context,
    ref: str,
    dtype: str,
    rows: Iterable[dict[str, Any]],
    tokenizer: str,
    vocab_size: int,
    length: int,
    names: str,
) -> Teacher:
    """The teacher that `ref` names, once it is known to read the rows as they were written.

    Args:
        rows: some rows of token ids.
        tokenizer: folder of the tokenizer that made them.
        vocab_size: of that tokenizer.
        length: tokens of the longest row.
        names: of the rows, for messages.

    Raises:
        ConfigError: it is no model that predicts the next token, or has another tokenizer, or takes shorter rows.
    """
    path = checkpoint_path(ctx, ref)
    try:
        check_start(path, Needs("causal"), Folder(tokenizer.removesuffix("/tokenizer")), vocab_size)
        config = load_config(path)
        # what is no folder of this machine was not looked at above
        check_kind(config.to_dict(), "causal", path)
        check_vocabulary(config.to_dict(), vocab_size, names, path)
        why = other_tokens(rows, load_tokenizer(tokenizer), load_tokenizer(path))
    except ConfigError as error:
        raise ConfigError(f"teacher {ref!r}: {error.what}", where=error.where, next=error.next) from error
    if why:
        raise ConfigError(
            f"teacher {ref!r} has another tokenizer than the rows of {names!r}: {why}",
            where=path,
            next="take a teacher of the student's family, or rows and a student with the teacher's tokenizer",
        )
    most = positions(config.to_dict())
    if most is not None and length > most:
        raise ConfigError(
            f"teacher {ref!r} takes {most} tokens, {names!r} has up to {length}",
            where=path,
            next="shorter rows, or another teacher",
        )
    return Teacher(ref=ref, path=path, dtype=dtype)


def load_teacher(path: str, dtype: str, apart: str = "", cut: bool = False) -> Any:
    """The teacher's model, proven to look at what came before each token alone.

    Args:
        apart: the key that keeps documents of a row apart, "" where none does.
        cut: ranks share its layers.

    Raises:
        ConfigError: it looks ahead, or cannot be laid out so.
    """
    # here, because the driver imports this file and needs no torch
    from raylm.model.leaks import check_causal, check_documents

    model = load_model(path, dtype)
    if is_composite(model.config) and (cut or apart):
        raise ConfigError(
            f"teacher {path!r} has parts beside its language model, {apart or 'the mesh'} knows none",
            next="drop document_mask, and leave the mesh to data ranks",
        )
    if apart:
        check_documents(model, apart)
    check_causal(model)
    return model


def build_teacher(ranks: Ranks, cfg: TrainerConfig, steps: int, teacher: Teacher) -> Engine:
    """The teacher over the ranks of the stage, laid out as the stage says, frozen. Every rank must call."""
    # here, because the driver imports this file and needs no torch
    from raylm.parallel.assemble import assemble
    from raylm.parallel.start import begin

    def load() -> Any:
        ranks.heartbeat.mark(LOAD)
        mesh = cfg.mesh
        apart = "mesh.context" if mesh.context > 1 else "document_mask" if getattr(cfg, "document_mask", False) else ""
        return load_teacher(teacher.path, teacher.dtype, apart, mesh.tensor * mesh.context * mesh.pipeline * mesh.expert > 1)

    model, weight_loader = begin(load, ranks.rank, ranks.world, ranks.device)
    ranks.heartbeat.mark("start")
    # products in float8 are for what learns
    laid = cfg.model_copy(update={"dtype": "bfloat16"}) if cfg.dtype == "float8" else cfg
    engine = assemble(model, laid, steps, rank=ranks.rank, world=ranks.world, frozen=True, weight_loader=weight_loader)
    if weight_loader:
        weight_loader.close()
    return engine
