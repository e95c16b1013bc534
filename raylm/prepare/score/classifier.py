"""The `classifier` score: a sequence classification model's value, or its probabilities of labels."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from raylm.core.artifact import Artifact
from raylm.core.config import CheckpointRef, Config, did_you_mean
from raylm.core.errors import ConfigError
from raylm.prepare.score.weights import address, batches, check_length, device, head

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa


class Classifier(Config):
    """Any sequence classification model of transformers; safetensors only, no code from the checkpoint is run.

    A model with one output (FineWeb-Edu's classifier) gives its value, as it is, in `column`. Of a model with several
    labels name those that are wanted: a column of probabilities (softmax) each. All columns are float32.
    """

    kind: Literal["classifier"] = "classifier"
    model: CheckpointRef
    """Stage, folder, URI or hub name (`HuggingFaceFW/fineweb-edu-classifier`)."""
    column: str = Field(default="score", pattern=r"^[a-z][a-z0-9_]*$")
    """Column of a model with one output."""
    labels: dict[str, str] = {}
    """Of a model with several labels: label -> column, as `labels = {toxic = "toxicity"}`."""
    max_tokens: int = Field(default=512, gt=0)
    """A longer text is judged by its beginning."""
    batch_tokens: int = Field(default=16384, gt=0)
    """Tokens per batch, padding included."""
    dtype: Literal["auto", "float32", "bfloat16"] = "float32"
    """Dtype of the computation; `auto`: the one that the weights are stored in."""

    def columns(self) -> tuple[str, ...]:
        """Names of what `score` adds."""
        return tuple(self.labels.values()) or (self.column,)

    def placed(self, open: Callable[[str], Artifact]) -> Classifier:
        """This card with an address that every worker can read."""
        return self.model_copy(update={"model": address(self.model, open)})

    def score(self, table: pa.Table) -> dict[str, np.ndarray | pa.Array]:
        """On a GPU where the worker has one; NaN where a text has no token. The model is loaded once in a process.

        Raises:
            ArtifactError: no such model.
            ConfigError: labels that the model does not have, or none named of several.
        """
        import numpy as np
        import torch

        tokenizer, model = _loaded(self.model, self.dtype, device())
        check_length(self.max_tokens, model.config, self.model)
        outputs = self._outputs(model.config)
        texts = [head(text, self.max_tokens) for text in table["text"].to_pylist()]
        ids = tokenizer(texts, truncation=True, max_length=self.max_tokens)["input_ids"]
        values = np.full((len(ids), model.config.num_labels), np.nan, dtype=np.float32)
        filled = [row for row, tokens in enumerate(ids) if tokens]
        with torch.inference_mode():
            for batch in batches([len(ids[row]) for row in filled], self.batch_tokens):
                rows = [filled[at] for at in batch]
                padded = tokenizer.pad({"input_ids": [ids[row] for row in rows]}, return_tensors="pt").to(model.device)
                logits = model(**padded).logits.float()
                values[rows] = (logits.softmax(-1) if self.labels else logits).cpu().numpy()
        return {name: values[:, at] for name, at in outputs.items()}

    def _outputs(self, config: Any) -> dict[str, int]:
        """Column -> output of the model."""
        known = {str(label): int(at) for at, label in config.id2label.items()}
        if config.num_labels == 1 and self.labels:
            raise ConfigError("the model has one output and no labels", where=self.model, next="use `column`")
        if config.num_labels == 1:
            return {self.column: 0}
        if not self.labels:
            names = ", ".join(known)
            raise ConfigError("the model has several labels", where=self.model, next=f"name in `labels` some of: {names}")
        for label in self.labels:
            if label not in known:
                raise ConfigError(f"the model has no label {label!r}.{did_you_mean(label, known)}", where=self.model)
        return {column: known[label] for label, column in self.labels.items()}


@lru_cache(maxsize=4)
def _loaded(path: str, dtype: str, device: str) -> tuple[Any, Any]:
    from transformers import AutoModelForSequenceClassification

    from raylm.model.load import load_as, load_tokenizer

    # a classifier without its own head, which transformers would make of random numbers, gives random scores
    model = load_as(AutoModelForSequenceClassification, path, dtype, unread=r"^lm_head\.|^cls\.|^predictions\.")
    return load_tokenizer(path), model.to(device).eval()
