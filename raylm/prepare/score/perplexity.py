"""The `perplexity` score: bits per byte and perplexity of each document under a causal model."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from raylm.core.artifact import Artifact
from raylm.core.config import Config, Refers
from raylm.core.errors import ConfigError
from raylm.core.variants import GENERATES
from raylm.prepare.score.weights import address, batches, check_length, device, head

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa


class Perplexity(Config):
    """Scores text under any causal model of transformers, trained by this very job or by others.

    Columns, float32: `bits_per_byte` (negative log2-likelihood over UTF-8 bytes: comparable between tokenizers) and
    `perplexity` (exp of the mean negative log-likelihood of a token). NaN where there is nothing to foresee.
    """

    kind: Literal["perplexity"] = "perplexity"
    model: Annotated[str, Refers(("Checkpoint",), GENERATES)]
    """Stage, folder, URI or hub name."""
    prefix: str = Field(default="", pattern=r"^[a-z0-9_]*$")
    """What both column names begin with, where several models score."""
    max_tokens: int = Field(default=1024, gt=1)
    """A longer text is scored by its beginning."""
    batch_tokens: int = Field(default=4096, gt=0)
    """Tokens per batch, padding included."""
    dtype: Literal["auto", "float32", "bfloat16"] = "float32"
    """Dtype of the computation; `auto`: the one that the weights are stored in."""

    def columns(self) -> tuple[str, ...]:
        """Names of what `score` adds."""
        return f"{self.prefix}bits_per_byte", f"{self.prefix}perplexity"

    def placed(self, open: Callable[[str], Artifact]) -> Perplexity:
        """This card with an address that every worker can read."""
        return self.model_copy(update={"model": address(self.model, open)})

    def score(self, table: pa.Table) -> dict[str, np.ndarray | pa.Array]:
        """On a GPU where the worker has one. The model is loaded once in a process.

        In front of a text stands the token that begins texts, or else the one that ends them; where the tokenizer has
        neither, the first token is not scored, and its bytes are not counted.
        """
        import numpy as np
        import torch

        from raylm.data.batch import pad
        from raylm.model.scores import token_logprobs

        tokenizer, model = _loaded(self.model, self.dtype, device())
        check_length(self.max_tokens, model.config, self.model)
        rows, sizes = self._tokens(tokenizer, table["text"].to_pylist())
        nats = np.full(len(rows), np.nan)
        counts = np.array([max(len(row) - 1, 0) for row in rows])
        scored = np.flatnonzero(counts)
        with torch.inference_mode():
            for batch in batches([len(rows[at]) for at in scored], self.batch_tokens):
                at = scored[batch]
                padded = pad([rows[row] for row in at], [np.ones(len(rows[row])) for row in at], 0, model.device)
                logprobs_BT = token_logprobs(model, padded).double() * padded.weight_BT
                nats[at] = -logprobs_BT.sum(1).cpu().numpy()
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            per_byte = nats / np.log(2) / sizes
            per_token = np.exp(nats / counts)
        return dict(zip(self.columns(), (per_byte.astype(np.float32), per_token.astype(np.float32)), strict=True))

    def _tokens(self, tokenizer: Any, texts: list[str]) -> tuple[list[np.ndarray], np.ndarray]:
        """Rows as the model reads them, and the bytes of what is foreseen in each."""
        import numpy as np

        if not tokenizer.is_fast:
            raise ConfigError("its tokenizer does not say which bytes a token stands for", where=self.model)
        starts = [token for token in (tokenizer.bos_token_id, tokenizer.eos_token_id) if token is not None][:1]
        texts = [head(text, self.max_tokens) for text in texts]
        encoded = tokenizer(
            texts,
            add_special_tokens=False,
            truncation=True,
            max_length=self.max_tokens - len(starts),
            return_offsets_mapping=True,
        )
        rows = [np.array([*starts, *ids], dtype=np.int64) for ids in encoded["input_ids"]]
        sizes = np.zeros(len(rows))
        for at, places in enumerate(encoded["offset_mapping"]):
            if places:
                # without a token in front the first one is given
                sizes[at] = len(texts[at][0 if starts else places[0][1] : places[-1][1]].encode())
        return rows, sizes


@lru_cache(maxsize=4)
def _loaded(path: str, dtype: str, device: str) -> tuple[Any, Any]:
    from raylm.model.load import load_model, load_tokenizer

    return load_tokenizer(path), load_model(path, dtype).to(device).eval()
