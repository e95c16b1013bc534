"""Where the weights of scoring models are found, and batches of texts by length."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from raylm.core.artifact import Artifact, Checkpoint
from raylm.core.errors import ArtifactError, ConfigError
from raylm.core.storage import Folder

# no tokenizer makes tokens longer than this on average: what lies behind max_tokens of them is not even read
_CHARS_PER_TOKEN = 16


def address(ref: str, open: Callable[[str], Artifact]) -> str:
    """Where the weights are that `ref` names: a stage's or artifact's folder, any other folder or URI, a hub name as it is.

    Args:
        open: the context's; it looks for the stage of that name, or else for an artifact at that very place.

    Raises:
        ArtifactError: it is a stage or an artifact, but not a whole Checkpoint.
    """
    try:
        found = open(ref)
    except ArtifactError as cause:
        if cause.where != Folder(ref).uri:
            raise
        # no stage, no manifest: weights that somebody else made
        return Folder(ref).uri if "://" not in ref and Folder(ref).exists() else ref
    if not isinstance(found, Checkpoint):
        raise ArtifactError(f"this is a {found.kind}, a Checkpoint is needed", where=found.uri)
    return found.uri


def device() -> str:
    """`cuda` where this process was given a GPU."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def head(text: str, max_tokens: int) -> str:
    """The part of a text in which `max_tokens` tokens are."""
    return text[: max_tokens * _CHARS_PER_TOKEN]


def batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Row numbers, the shortest rows first: no batch is larger than `batch_tokens` with its padding, save single rows."""
    rows: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda row: (lengths[row], row)):
        if rows and lengths[row] * (len(rows) + 1) > batch_tokens:
            yield rows
            rows = []
        rows.append(row)
    if rows:
        yield rows


def check_length(max_tokens: int, config: object, model: str) -> None:
    """Raises ConfigError when the model has fewer positions."""
    most = getattr(config, "max_position_embeddings", None)
    if most is not None and max_tokens > most:
        raise ConfigError(f"max_tokens is {max_tokens}, the model reads {most}", where=model, next=f"set max_tokens to {most}")
