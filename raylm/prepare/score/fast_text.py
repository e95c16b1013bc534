"""The `fast_text` score: label and probability of a fastText classifier. Opt-in: fastText is in no lock of raylm."""

from __future__ import annotations

import importlib
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from raylm.core.config import Config, did_you_mean
from raylm.core.errors import ArtifactError, ConfigError
from raylm.prepare.lists import absolute, parted

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

_LABEL = "__label__"


class FastText(Config):
    """A fastText classifier: language (lid.176), quality (DCLM), topic. Its last release is of 2020, so the package that
    builds for this Python is yours to choose: `pip install fasttext-numpy2-wheel`.

    Columns: `<prefix>label` (string, without `__label__`) and `<prefix>score` (float32, its probability).
    """

    reads_files: ClassVar[tuple[str, ...]] = ("model",)

    kind: Literal["fast_text"] = "fast_text"
    model: str
    """Path or URI of the .bin or .ftz file."""
    label: str | None = None
    """`score` is the probability of this label, whichever label is the likeliest; `__label__` may be left out."""
    prefix: str = Field(default="", pattern=r"^[a-z0-9_]*$")
    """What both column names begin with, where several models score."""

    def columns(self) -> tuple[str, ...]:
        """Names of what `score` adds."""
        return f"{self.prefix}label", f"{self.prefix}score"

    def placed(self, open: Any) -> FastText:
        """This card with an address that does not depend on the worker's folder."""
        return self.model_copy(update={"model": absolute(self.model)})

    def score(self, table: pa.Table) -> dict[str, np.ndarray | pa.Array]:
        """The model is loaded once in a process; a line break is a space to it.

        Raises:
            ConfigError: fastText is not installed, or the model has no such label.
            ArtifactError: no model can be read there.
        """
        import numpy as np
        import pyarrow as pa

        model, labels = _loaded(self.model)
        wanted = None if self.label is None else _LABEL + self.label.removeprefix(_LABEL)
        if wanted is not None and wanted not in labels:
            known = [label.removeprefix(_LABEL) for label in labels]
            raise ConfigError(f"the model has no label {self.label!r}.{did_you_mean(self.label or '', known)}", where=self.model)
        texts = [text.replace("\n", " ") for text in table["text"].to_pylist()]
        names, values = model.predict(texts, k=1 if wanted is None else -1)
        first = [found[0].removeprefix(_LABEL) if len(found) else None for found in names]
        scores = [_probability(found, shares, wanted) for found, shares in zip(names, values, strict=True)]
        columns = (pa.array(first, pa.string()), np.array(scores, dtype=np.float32))
        return dict(zip(self.columns(), columns, strict=True))


def _probability(labels: Any, shares: Any, wanted: str | None) -> float:
    """Of the wanted label, or else of the first; NaN for a text without any label.

    fastText's sums pass 1 by a rounding.
    """
    at = 0 if wanted is None else next((place for place, label in enumerate(labels) if label == wanted), len(labels))
    return min(float(shares[at]), 1.0) if at < len(labels) else float("nan")


@lru_cache(maxsize=4)
def _loaded(path: str) -> tuple[Any, frozenset[str]]:
    try:
        fasttext = importlib.import_module("fasttext")
    except ImportError as cause:
        raise ConfigError(
            "fastText is not installed, and no part of raylm's locks", where=path, next="pip install fasttext-numpy2-wheel"
        ) from cause
    folder, name = parted(path)
    if not folder.exists(name):
        raise ArtifactError("there is no fastText model here", where=path)
    try:
        model = fasttext.load_model(str(folder.local(name)))
    except ValueError as cause:
        raise ArtifactError(f"no fastText model could be loaded: {cause}", where=path) from cause
    return model, frozenset(model.get_labels())
