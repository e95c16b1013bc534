"""Places a tokenizer in an artifact's folder, copied or trained there, and loads it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from raylm.core.artifact import MANIFEST, Checkpoint, Documents
from raylm.core.context import Context
from raylm.core.errors import DataError
from raylm.core.storage import Folder
from raylm.tokenize.config import Tokenize
from raylm.tokenize.trainers.counts import COUNTS, count_words

FOLDER = "tokenizer"
_READY = "tokenizer-ready.json"


def place(cfg: Tokenize, ctx: Context, documents: Documents) -> dict[str, Any]:
    """Put the stage's tokenizer in `tokenizer/` of its artifact, unless an earlier attempt has done so.

    Returns:
        Facts: what it was trained on (`Counted.facts`); empty when it was taken as it is.
    """
    if ctx.work.exists(_READY):
        return ctx.work.read_json(_READY)
    ctx.out.remove(FOLDER)
    facts: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        at = Path(temporary)
        if isinstance(cfg.tokenizer, str):
            _fetch(cfg.tokenizer, ctx, at)
        else:
            facts = _train(cfg, ctx, documents, at)
        # a tokenizer with several chat templates has a folder of them
        for file in sorted(path for path in at.rglob("*") if path.is_file()):
            (ctx.out / FOLDER).write(str(file.relative_to(at)), file.read_bytes())
    ctx.work.write_json(_READY, facts)
    ctx.work.remove(COUNTS)
    return facts


def load(at: Path | str, where: str | None = None) -> Any:
    """The tokenizer in a folder, or of a hub name.

    Raises:
        DataError: there is none, or it has no fast (tokenizers) form.
    """
    from raylm.model.tokenizer import read_tokenizer

    try:
        found = read_tokenizer(str(at))
    except (OSError, ValueError, ImportError, KeyError) as cause:
        raise DataError(
            f"cannot load a tokenizer: {cause}",
            where=where or str(at),
            next="name a folder with tokenizer.json, or a hub name (owner/name)",
        ) from cause
    if not getattr(found, "is_fast", False):
        raise DataError(f"{type(found).__name__} has no fast form (tokenizer.json)", where=where or str(at))
    return found


def _train(cfg: Tokenize, ctx: Context, documents: Documents, at: Path) -> dict[str, Any]:
    trainer: Any = cfg.tokenizer
    if base := getattr(trainer, "base", None):
        _fetch(base, ctx, at)
    pattern = trainer.pre_tokenization(at)
    if pattern is None:
        trainer.train(None, at)
        return {}
    counted = count_words(
        ctx,
        documents,
        pattern,
        held_out=cfg.held_out,
        workers=cfg.workers,
        max_words=trainer.max_words,
        sample_bytes=trainer.sample_bytes,
    )
    trainer.train(counted, at)
    return counted.facts()


def _fetch(ref: str, ctx: Context, at: Path) -> None:
    if not ctx.is_stage(ref) and not Folder(ref).exists(MANIFEST):
        load(ref).save_pretrained(str(at))
        return
    artifact = ctx.open(ref)
    if isinstance(artifact, Checkpoint):
        load(artifact.folder.local(), artifact.uri).save_pretrained(str(at))
        return
    # copied byte for byte: the stages that share a tokenizer can be seen to
    for entry in artifact.shards(f"{FOLDER}/"):
        file = at / Path(entry.path).relative_to(FOLDER)
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(artifact.folder.read(entry.path))
