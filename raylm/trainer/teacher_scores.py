"""What a teacher says of rows: asked on the ranks beside the student, or stored ahead of training and read by row.

Stored are, for each token of a row that counts and in their order, ids and log-probabilities of the teacher's K likeliest tokens
and the log-probability of all others together: 8 * K + 4 bytes.

Shapes: B rows, T positions, K likeliest tokens, N tokens of a row that count.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

from raylm.core.config import Config
from raylm.core.errors import DataError
from raylm.data.batch import Batch, Taught
from raylm.data.kinds import ROW_KINDS

if TYPE_CHECKING:
    from raylm.model.head import Asks
    from raylm.model.scores import Scores


def bytes_per_token(num_classes: int) -> int:
    """Bytes that are stored of a token that counts."""
    return 8 * num_classes + 4


def asked(num_classes: int, words: int, temperature: float) -> Asks:
    """What a teacher is asked.

    Args:
        words: tokens of the tokenizer; rows of an output layer beyond them are never among the likeliest.
    """
    from raylm.model.head import Asks

    return Asks(top_k=num_classes, words=words, temperature=temperature)


def taught(scores: Scores) -> Taught:
    """What a live teacher answered."""
    return Taught(scores.top_id_BTK.int(), scores.top_logprob_BTK, scores.rest_logprob_BT)


def read(batch: Batch, num_classes: int) -> Taught:
    """What was stored of the rows of a batch.

    Raises:
        DataError: it is of other rows, or of another number of likeliest tokens.
    """
    import numpy as np
    import torch

    from raylm.model.scores import causal

    counts_BT = causal(batch).weight_BT > 0
    shape, device = counts_BT.shape, counts_BT.device
    stored = [scores for scores, counts in zip(batch.scores, counts_BT.any(1).tolist(), strict=True) if counts]
    sizes = [len(each["rest"]) for each in stored]
    if sizes != [size for size in counts_BT.sum(1).tolist() if size] or any(
        len(each["ids"]) != num_classes * len(each["rest"]) for each in stored
    ):
        raise DataError(
            f"what the teacher said of {sizes} tokens is stored, {counts_BT.sum(1).tolist()} of them count",
            where=f"rows {list(batch.rows)}",
            next="remove the folder .scores of this job, and run the stage again",
        )
    found = []
    for name, width, dtype in (
        ("ids", num_classes, torch.int32),
        ("logprobs", num_classes, torch.float32),
        ("rest", 1, torch.float32),
    ):
        values = np.concatenate([each[name] for each in stored]) if stored else np.zeros(0)
        each_BTC = torch.zeros(*shape, width, dtype=dtype, device=device)
        each_BTC[counts_BT] = torch.from_numpy(np.array(values)).to(device, dtype).view(-1, width)
        found.append(each_BTC)
    return Taught(found[0], found[1], found[2][..., 0])


class TeacherScorer(Config):
    """A teacher on a worker, see `raylm.trainer.stored_scores.Scorer`."""

    placement: ClassVar[frozenset[str]] = frozenset({"path", "batch_tokens"})

    path: str
    """Where the teacher lies, as workers find it."""
    content: str
    """What tells its weights from others."""
    dtype: str
    """Of its weights, and of compute."""
    rows_kind: str
    document_mask: bool
    num_classes: int
    """Likeliest tokens that are kept at each position."""
    words: int
    """Tokens of the tokenizer."""
    temperature: float
    batch_tokens: int = 8192
    """Tokens per forward pass, padding included."""

    def score(self, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """`ids` int32 [N * K], `logprobs` float32 [N * K] and `rest` float32 [N] of each row."""
        import torch

        from raylm.data.batch import with_documents
        from raylm.model.scores import causal

        engine, kind, found = _loaded(self.path, self.dtype, self.document_mask), ROW_KINDS[self.rows_kind], []
        micro = max(1, self.batch_tokens // max(len(row["tokens"]) for row in rows))
        for start in range(0, len(rows), micro):
            some = rows[start : start + micro]
            batch = kind.collate(some, [1.0] * len(some), 0, engine.device)
            if self.document_mask:
                batch = with_documents(batch, [row.get("starts", ()) for row in some])
            inputs = causal(batch)
            (scores,) = engine.forward([inputs], asked(self.num_classes, self.words, self.temperature))
            for row, counts in enumerate(inputs.weight_BT > 0):
                parts = (
                    scores.top_id_BTK[row][counts].int(),
                    scores.top_logprob_BTK[row][counts],
                    scores.rest_logprob_BT[row][counts],
                )
                ids, logprobs, rest = (torch.flatten(part).cpu().numpy() for part in parts)
                found.append({"ids": ids, "logprobs": logprobs, "rest": rest})
        return found


@lru_cache(maxsize=1)
def _loaded(path: str, dtype: str, document_mask: bool) -> Any:
    """The teacher on this worker alone, on its GPU where it has one, as an engine: what ranks compute with."""
    import torch

    from raylm.parallel.assemble import assemble
    from raylm.parallel.config import ParallelConfig
    from raylm.parallel.strategies.ddp import Ddp
    from raylm.trainer.teacher import load_teacher

    device = "cuda" if torch.cuda.is_available() else "cpu"
    cfg: Any = ParallelConfig(strategy=Ddp(), dtype="float32" if dtype == "float32" else "bfloat16")
    model = load_teacher(path, dtype, "document_mask" if document_mask else "")
    return assemble(model.to(device), cfg, 1, frozen=True)
