"""The `language` score: the language of each document, and its probability."""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from raylm.core.config import Config, did_you_mean
from raylm.core.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa


class Language(Config):
    """py3langid (https://pypi.org/project/py3langid), 140 languages, its model in the wheel: the same labels and scores,
    its loop over bytes compiled.

    Columns: `language` (string, ISO 639), `language_score` (float32, its share of the probability over all languages) and,
    with `wanted`, `language_wanted` (float32, the wanted languages' shares together: `between` decides by it).
    """

    kind: Literal["language"] = "language"
    wanted: list[str] = []
    """Codes (`en`, `de`) of languages whose probability becomes the column `language_wanted`."""

    def columns(self) -> tuple[str, ...]:
        """Names of what `score` adds."""
        return ("language", "language_score", *(("language_wanted",) if self.wanted else ()))

    def score(self, table: pa.Table) -> dict[str, np.ndarray | pa.Array]:
        """A text without any letter group that the model knows has every language alike: its score is about 0.007.

        Raises:
            ConfigError: a wanted language is none of the model's.
        """
        import numpy as np
        import pyarrow as pa

        model = _model()
        for code in self.wanted:
            if code not in model.labels:
                hint = did_you_mean(code, model.labels)
                raise ConfigError(f"the model knows no language {code!r}.{hint}", where="language.wanted")
        shares = probabilities(table["text"].to_pylist())
        best = shares.argmax(axis=1)
        columns: dict[str, Any] = {
            "language": pa.array([model.labels[at] for at in best], pa.string()),
            "language_score": shares[np.arange(len(best)), best],
        }
        if self.wanted:
            columns["language_wanted"] = shares[:, [code in self.wanted for code in model.labels]].sum(axis=1)
        return columns


class _Model(NamedTuple):
    labels: list[str]
    """One per column; of a label with two columns the second is always 0."""
    twins: list[tuple[int, int]]
    arrays: tuple[np.ndarray, ...]


def probabilities(texts: list[str]) -> np.ndarray:
    """Share of each language, float32 [texts, labels]: the softmax of scores over the square root of the bytes."""
    import numpy as np

    from raylm.prepare.score.automaton import language_scores

    model = _model()
    encoded = [_bytes(text) for text in texts]
    sizes = np.array([len(data) for data in encoded], dtype=np.int64)
    shares = language_scores(np.frombuffer(b"".join(encoded), dtype=np.uint8), np.cumsum(sizes), *model.arrays)
    shares /= np.sqrt(np.maximum(sizes, 1)).astype(np.float32)[:, None]
    np.exp(shares - shares.max(axis=1, keepdims=True), out=shares)
    shares /= shares.sum(axis=1, keepdims=True)
    for one, other in model.twins:
        shares[:, one] += shares[:, other]
        shares[:, other] = 0
    return shares


def _bytes(text: str) -> bytes:
    text = text.lower() if text.isupper() else text
    return text.encode() if text.isascii() else unicodedata.normalize("NFC", text).encode()


@cache
def _model() -> _Model:
    """Read once in a process: about 100 MB."""
    import numpy as np
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    held = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    arrays = (
        np.asarray(held.tk_row),
        np.asarray(held.tk_nextmove),
        np.asarray(held.tk_output, dtype=np.int32),
        np.asarray(held.nb_ptc, dtype=np.float32),
        np.asarray(held.nb_pc, dtype=np.float32),
    )
    return _Model(held.nb_classes, held._alias_pairs, arrays)
