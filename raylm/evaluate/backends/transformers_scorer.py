"""Log-probabilities by a model of transformers, held by the process that asks."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from raylm.evaluate.backends.backend import Score
from raylm.model.attention import Boundaries, install, installed, refused_documents
from raylm.model.head import LOGPROBS, Asks
from raylm.model.limits import positions
from raylm.model.load import load_model, load_tokenizer
from raylm.model.scores import Inputs, ask
from raylm.model.shapes.shape import Shape

MICRO = 32
"""Rows of one forward pass at most."""
MICRO_TOKENS = 8192
"""Its tokens at most, padding included; a longer row goes alone."""
SHARED = 8
"""Tokens that rows must begin with alike for these to be computed once."""


class TransformersScorer:
    """A model on one worker.

    Args:
        path: where its files lie; of a fresh model, where its tokenizer lies.
        fresh: shape, token facts and seed of a model to measure before its first step.
    """

    def __init__(self, path: str, fresh: tuple[Shape, dict[str, Any], int] | None = None) -> None:
        self._path, self._fresh = path, fresh
        self._model: Any = None
        self._tokenizer: Any = None

    @property
    def tokenizer(self) -> Any:
        """The model's own."""
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(self._path)
        return self._tokenizer

    def positions(self) -> int | None:
        """Longest text that the model was made for, in tokens."""
        return positions(self._loaded().config.to_dict())

    def vocabulary(self) -> int | None:
        """Rows of its embedding."""
        return self._loaded().get_input_embeddings().weight.shape[0]

    def scores(self, rows: Sequence[Any], masks: Sequence[Any], greedy: bool) -> Iterator[tuple[int, Score | str]]:
        """What several rows begin with (a question with its choices) is computed once, where the model's attention can be told
        so; the others share a forward pass with rows of like length, the longest first: what does not fit into memory fails at
        once."""
        model = self._loaded()
        shared, alone = shared_beginnings(rows, masks) if refused_documents(model) is None else ([], list(range(len(rows))))
        for batch in _filled(shared, [_size(group, rows, masks) for group in shared]):
            if not installed(model):
                install(model)
            members = [at for group in batch for at in group]
            inputs, owner_T = _branches([[(rows[at], masks[at]) for at in group] for group in batch], self._device)
            yield from self._asked(inputs, owner_T, members, greedy)
        order = sorted(alone, key=lambda at: -len(rows[at]))
        while order:
            count = max(min(MICRO, MICRO_TOKENS // len(rows[order[0]])), 1)
            batch, order = order[:count], order[count:]
            inputs = _inputs([rows[at] for at in batch], [masks[at] for at in batch], self._device)
            owner_BT = _row_numbers(inputs)
            yield from self._asked(inputs, owner_BT, batch, greedy)

    def _asked(self, inputs: Inputs, owner: Any, members: list[int], greedy: bool) -> Iterator[tuple[int, Score]]:
        """One forward pass.

        Args:
            owner: which of `members` each output position counts for, in the shape of the tokens.
        """
        import torch

        began = time.monotonic()
        with torch.no_grad():
            found = ask(self._loaded(), inputs, Asks(top_k=1) if greedy else LOGPROBS, "chunked")
        counted = inputs.weight_BT > 0
        place, weight = owner[counted], inputs.weight_BT[counted].double()
        nats = torch.zeros(len(members), dtype=torch.float64, device=place.device)
        nats.index_add_(0, place, found.logprob_BT[counted].double() * weight)
        missed = torch.full_like(nats, float(not greedy))
        if greedy:
            missed.index_add_(0, place, (found.top_id_BTK[..., 0] != inputs.target_BT)[counted].double())
        seconds = (time.monotonic() - began) / len(members)
        for at, value, misses in zip(members, nats.tolist(), missed.tolist(), strict=True):
            yield at, Score(value, misses == 0, seconds)

    @property
    def _device(self) -> Any:
        return next(self._loaded().parameters()).device

    def _loaded(self) -> Any:
        import torch

        if self._model is None:
            shape = self._fresh
            model = shape[0].build(shape[1], shape[2]) if shape else load_model(self._path)
            # Ray hides the GPUs that were not asked for
            self._model = model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
        return self._model


def shared_beginnings(rows: Sequence[Any], masks: Sequence[Any]) -> tuple[list[list[int]], list[int]]:
    """(groups of rows that are the same up to their first counted token, rows that share too little with any other one)."""
    import numpy as np

    groups: dict[bytes, list[int]] = {}
    for at, (row, mask) in enumerate(zip(rows, masks, strict=True)):
        if np.any(np.asarray(mask)[1:]):
            groups.setdefault(np.asarray(row[: _begin(mask) + 1], dtype=np.int64).tobytes(), []).append(at)
    least = SHARED * np.dtype(np.int64).itemsize
    found = [group for before, group in groups.items() if len(group) > 1 and len(before) >= least]
    taken = {at for group in found for at in group}
    return found, [at for at in range(len(rows)) if at not in taken]


def _size(group: list[int], rows: Sequence[Any], masks: Sequence[Any]) -> int:
    """Tokens of a group, its beginning once."""
    begin = _begin(masks[group[0]])
    return begin + sum(len(rows[at]) - begin for at in group)


def _begin(mask: Any) -> int:
    """Place of the last token before those that count."""
    import numpy as np

    # nothing predicts a first token, whatever its mask says
    return int(np.flatnonzero(np.asarray(mask)[1:])[0])


def _filled(groups: list[list[int]], sizes: list[int]) -> Iterator[list[list[int]]]:
    """Groups that share a forward pass, the longest first."""
    held: list[list[int]] = []
    room = MICRO_TOKENS
    for at in sorted(range(len(groups)), key=lambda at: -sizes[at]):
        if held and sizes[at] > room:
            yield held
            held, room = [], MICRO_TOKENS
        held.append(groups[at])
        room -= sizes[at]
    if held:
        yield held


def _branches(groups: Sequence[Sequence[tuple[Any, Any]]], device: Any) -> tuple[Inputs, Any]:
    """One row in which each beginning stands once, less its last token, and behind it what every row of the group goes on with,
    from that token on and less its own last one: `raylm.data.padding_free` has a picture. With it, which row each position is of.
    """
    import numpy as np
    import torch

    parts: dict[str, list[Any]] = {name: [] for name in ("token", "target", "weight", "document", "prefix", "position", "owner")}

    def add(**columns: Any) -> None:
        size = len(columns["token"])
        for name, values in columns.items():
            parts[name].append(np.broadcast_to(np.asarray(values), (size,)))

    document = owner = 0
    for group in groups:
        first, mask = group[0]
        begin = _begin(mask)
        trunk = document
        zero = np.zeros(begin, dtype=np.int64)
        add(token=first[:begin], target=zero, weight=0.0, document=trunk, prefix=trunk, position=np.arange(begin), owner=0)
        for row, mask in group:
            document += 1
            tokens = np.asarray(row[begin:], dtype=np.int64)
            add(
                token=tokens[:-1],
                target=tokens[1:],
                weight=np.asarray(mask, dtype=np.float32)[begin + 1 :],
                document=document,
                prefix=trunk,
                position=np.arange(begin, begin + len(tokens) - 1),
                owner=owner,
            )
            owner += 1
        document += 1
    whole = {name: torch.from_numpy(np.concatenate(values)).to(device)[None] for name, values in parts.items()}
    feed = {
        "input_ids": whole["token"].long(),
        "position_ids": whole["position"].long(),
        "boundaries": Boundaries(whole["document"].long(), whole["prefix"].long()),
    }
    return Inputs(feed, whole["target"].long(), whole["weight"].float()), whole["owner"].long()


def _row_numbers(inputs: Inputs) -> Any:
    """The number of its row at each position, int64 [B, T]."""
    import torch

    count, length = inputs.target_BT.shape
    return torch.arange(count, device=inputs.target_BT.device)[:, None].expand(count, length)


def _inputs(rows: Sequence[Any], masks: Sequence[Any], device: Any) -> Inputs:
    """Position t is asked for token t + 1, and the last token is no input: a model of P positions scores P + 1 tokens. What
    stands behind a row is asked for nothing, and attention looks left: no mask is needed."""
    import numpy as np
    import torch

    length = max(map(len, rows)) - 1
    tokens = np.zeros((len(rows), length), dtype=np.int64)
    target, weight = np.zeros_like(tokens), np.zeros(tokens.shape, dtype=np.float32)
    for at, (row, mask) in enumerate(zip(rows, masks, strict=True)):
        count = len(row) - 1
        tokens[at, :count], target[at, :count], weight[at, :count] = row[:-1], row[1:], mask[1:]
    return Inputs({"input_ids": torch.from_numpy(tokens).to(device)}, *(torch.from_numpy(x).to(device) for x in (target, weight)))
