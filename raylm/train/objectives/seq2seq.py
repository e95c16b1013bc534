"""The `seq2seq` objective: cross-entropy of an encoder-decoder's target (T5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from raylm.core.errors import ConfigError
from raylm.train.objectives.objective import TokenLoss, draw

if TYPE_CHECKING:
    import numpy as np

    from raylm.data.batch import Batch
    from raylm.model.scores import Inputs


class Seq2Seq(TokenLoss):
    """Encoder-decoder training: span corruption on Tokens, prompt to answer on Dialogues."""

    rows: ClassVar[tuple[str, ...]] = ("Tokens", "Dialogues")
    needs: ClassVar[tuple[str, ...]] = ("tokenizer",)
    model: ClassVar[str] = "seq2seq"

    kind: Literal["seq2seq"] = "seq2seq"
    task: Literal["auto", "spans", "answers"] = "auto"
    """`spans`: the decoder writes spans cut out of the row (https://arxiv.org/abs/1910.10683 section 3.1.4); `answers`: the
    encoder reads what does not count, the decoder writes what does. `auto` takes the first on Tokens, the second on Dialogues."""
    share: float = Field(default=0.15, gt=0, lt=1)
    """Share of tokens that are cut out."""
    span: float = Field(default=3.0, ge=1)
    """Mean length of a span, in tokens."""
    sentinel_ids: tuple[int, ...] | None = None
    """Tokens that stand for the spans, in order; the tokenizer's `<extra_id_0>`, `<extra_id_1>`, ... when absent."""
    start_id: int | None = None
    """First token of the decoder; what the model's config names as `decoder_start_token_id` when absent."""
    end_id: int | None = None
    """Last token of the decoder; the tokenizer's end of text when absent."""

    def fitted(self, rows_kind: str, tokenizer: Any) -> Seq2Seq:
        task = {"Tokens": "spans"}.get(rows_kind, "answers") if self.task == "auto" else self.task
        sentinels = self.sentinel_ids
        if sentinels is None:
            known = tokenizer.get_vocab()
            sentinels = tuple(known[name] for index in range(len(known)) if (name := f"<extra_id_{index}>") in known)
        if task == "spans" and not sentinels:
            raise ConfigError(
                "the tokenizer has no sentinels <extra_id_0>, ...", next="say objective.sentinel_ids, tokens that no text uses"
            )
        end = tokenizer.eos_token_id if self.end_id is None else self.end_id
        return self.model_copy(update={"task": task, "sentinel_ids": sentinels, "end_id": end})

    def for_model(self, model: Any) -> Seq2Seq:
        start = decoder_start(model) if self.start_id is None else self.start_id
        return self.model_copy(update={"start_id": start})

    def inputs(self, batch: Batch, seed: int) -> Inputs:
        import numpy as np
        import torch

        from raylm.model.scores import Inputs

        assert self.task != "auto" and self.start_id is not None, "not fitted to rows and a tokenizer"
        read, written = [], []
        for index, length in enumerate(batch.attend_BT.sum(1).tolist()):
            tokens_T, counts_T = (of[index, :length].cpu().numpy() for of in (batch.tokens_BT, batch.weight_BT))
            if self.task == "spans" and length > 1:
                source_S, target_S = self._cut(tokens_T, draw(seed, batch.rows, index))
            else:
                source_S, target_S = tokens_T[counts_T == 0], tokens_T[counts_T > 0]
            # a row that only fills up a rank's share is asked for nothing
            read.append(source_S)
            written.append(target_S if counts_T.any() else target_S[:0])
        source_BS, attend_BS = _rectangle(read)
        target_BT, weight_BT = _rectangle(written)
        decoded_BT = np.concatenate([np.full((len(written), 1), self.start_id), target_BT[:, :-1]], 1)
        arrays = (source_BS, attend_BS, decoded_BT, target_BT, weight_BT.astype(np.float32))
        source, attend, decoded, target, weight = (torch.from_numpy(of).to(batch.tokens_BT.device) for of in arrays)
        # the decoder looks left, where there is no padding before a token that counts
        feed = {"input_ids": source, "attention_mask": attend, "decoder_input_ids": decoded}
        return Inputs(feed, target, weight)

    def _cut(self, tokens_T: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """What the encoder reads and the decoder writes of one row: spans change places with sentinels."""
        import numpy as np

        sentinels = self.sentinel_ids or ()
        num_noise = min(max(round(len(tokens_T) * self.share), 1), len(tokens_T) - 1)
        # the decoder's last sentinel says that no span is left
        most = min(num_noise, len(tokens_T) - num_noise, max(len(sentinels) - 1, 1))
        num_spans = min(max(round(num_noise / self.span), 1), most)
        kept_S, cut_S = (_parts(total, num_spans, random) for total in (len(tokens_T) - num_noise, num_noise))
        source, target, at = [], [], 0
        for index, (kept, cut) in enumerate(zip(kept_S, cut_S, strict=True)):
            source += [tokens_T[at : at + kept], [sentinels[index]]]
            target += [[sentinels[index]], tokens_T[at + kept : at + kept + cut]]
            at += kept + cut
        target += [[sentinels[num_spans]]] if num_spans < len(sentinels) else []
        target += [[self.end_id]] if self.end_id is not None else []
        return np.concatenate(source).astype(np.int64), np.concatenate(target).astype(np.int64)


def decoder_start(model: Any) -> int:
    """The token with which `model` begins what it writes: as its own loss shifts labels, else as it generates.

    Raises:
        ConfigError: neither says it.
    """
    import torch

    labels_BT, shift = torch.tensor([[5, 6], [7, 8]]), getattr(model, "prepare_decoder_input_ids_from_labels", None)
    try:
        first_B = shift(labels_BT)[:, 0].tolist() if shift else []
    except (ValueError, TypeError):  # no decoder_start_token_id in the config
        first_B = []
    # some families put each text's last token first (mBART: the code of its language), which is no answer
    if len(set(first_B)) == 1:
        return first_B[0]
    for says in (model.config, getattr(model, "generation_config", None)):
        if (start := getattr(says, "decoder_start_token_id", None)) is not None:
            return start[0] if isinstance(start, list) else start
    raise ConfigError(
        "neither config.json nor generation_config.json says which token the decoder begins with (decoder_start_token_id)",
        where=f"model_type {model.config.model_type}",
        next="say objective.start_id",
    )


def _parts(total: int, count: int, random: np.random.Generator) -> np.ndarray:
    """`count` positive lengths that add up to `total`, each such list equally likely."""
    import numpy as np

    ends = np.sort(random.choice(total - 1, count - 1, replace=False)) + 1 if count > 1 else np.zeros(0, dtype=np.int64)
    return np.diff(np.concatenate([[0], ends, [total]]))


def _rectangle(rows: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Rows padded on the right with 0, and 1 where they are not padding; at least one column."""
    import numpy as np

    length = max(1, *(len(row) for row in rows))
    padded, real = np.zeros((len(rows), length), dtype=np.int64), np.zeros((len(rows), length), dtype=np.int64)
    for index, row in enumerate(rows):
        padded[index, : len(row)], real[index, : len(row)] = row, 1
    return padded, real
