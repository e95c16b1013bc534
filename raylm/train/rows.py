"""The rows of a train stage: one artifact or a mixture, checked and opened."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from raylm.core.artifact import Artifact
from raylm.core.context import Context
from raylm.core.errors import DataError
from raylm.data.mixture import Mixture, refs_of
from raylm.data.schedule import Mixed
from raylm.data.shards import Rows
from raylm.train.config import Train
from raylm.trainer.stored_scores import WithScores, open_scores

if TYPE_CHECKING:
    from raylm.trainer.setup import Setup


def open_parts(cfg: Train, ctx: Context) -> list[Artifact]:
    """The artifacts that `cfg.rows` names, in order.

    Raises:
        DataError: one of them has no training rows, or the parts of a mixture differ in kind, length or tokenizer.
        ConfigError: the weights of a mixture are not those that its `chosen_by` chose.
    """
    if isinstance(cfg.rows, Mixture) and cfg.rows.chosen_by:
        report = ctx.open(cfg.rows.chosen_by)
        cfg.rows.check_chosen(report.facts, report.uri)
    refs = refs_of(cfg.rows)
    parts = [ctx.open(ref) for ref in refs]
    for ref, part in zip(refs, parts, strict=True):
        if not num_rows(part):
            raise DataError("there are no training rows", where=part.uri)
        for name, of in (("kind", _kind), ("length", _length), ("classes", _classes), ("tokenizer", _tokenizer)):
            if of(part) != of(parts[0]):
                said = "" if name == "tokenizer" else f": {of(parts[0])} and {of(part)}"
                raise DataError(
                    f"{refs[0]!r} and {ref!r} cannot be mixed, their {name} differs{said}",
                    where=part.uri,
                    next=f"tokenize {ref} with tokenizer = {refs[0]!r} and the same form",
                )
    return parts


def num_rows(part: Artifact, split: str = "train") -> int:
    """Rows of one split."""
    return sum(entry.rows or 0 for entry in part.shards(f"{split}-"))


def open_rows(cfg: Train, setup: Setup, split: str) -> Rows | Mixed:
    """The rows of one split on a rank. Held-out rows are mixed by the shares of the whole run."""
    opened: list[Any] = [Rows.open(uri, split) for uri in setup.rows_uris]
    if setup.scores:
        opened = [WithScores(rows, open_scores(uri, split)) for rows, uri in zip(opened, setup.scores, strict=True)]
    if not isinstance(cfg.rows, Mixture):
        return opened[0]
    if split == "train":
        return Mixed(opened, cfg.rows.schedule(setup.num_rows, setup.steps * (cfg.batch or 0)))
    return Mixed(opened, cfg.rows.average(setup.num_rows))


def drawn(cfg: Train, parts: list[Artifact], steps: int) -> dict[str, Any]:
    """Fact `mixture`: per part rows, tokens (rows of mean length) and epochs that the whole run draws; {} without one."""
    if not isinstance(cfg.rows, Mixture):
        return {}
    sizes = [num_rows(part) for part in parts]
    draws = steps * (cfg.batch or 0)
    counts = cfg.rows.schedule(sizes, draws).counts(draws)
    return {
        "mixture": [
            {
                "rows": ref,
                "num_rows": count,
                "num_tokens": round(count * part.facts.get("num_tokens", 0) / size),
                "epochs": round(count / size, 4),
            }
            for ref, part, count, size in zip(refs_of(cfg.rows), parts, counts, sizes, strict=True)
        ]
    }


def held_out_bytes_per_token(cfg: Train, parts: list[Artifact]) -> float | None:
    """Bytes per token over the held-out rows, in the shares in which they are drawn; None where the facts do not say."""
    per_token = []
    for part in parts:
        tokens, size = part.facts.get("held_out_tokens"), part.facts.get("held_out_bytes")
        per_token.append(size / tokens if tokens and size else None)
    if not isinstance(cfg.rows, Mixture):
        return per_token[0]
    mixed = Mixed([range(num_rows(part, "held_out")) for part in parts], cfg.rows.average([num_rows(part) for part in parts]))
    places = [mixed.place(row)[0] for row in mixed.first(min(cfg.held_out_rows, len(mixed)))]
    found = [per_token[part] for part in places]
    known = [each for each in found if each is not None]
    return sum(known) / len(known) if known and len(known) == len(found) else None


def _kind(part: Artifact) -> str:
    return part.kind


def _length(part: Artifact) -> Any:
    return part.facts.get("length")


def _classes(part: Artifact) -> Any:
    return part.facts.get("classes")


def _tokenizer(part: Artifact) -> list[tuple[str, str]]:
    return [(entry.path, entry.digest) for entry in part.shards("tokenizer/")]
