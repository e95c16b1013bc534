"""Numbers of weights that are trained, by forecast and by the model itself."""

from __future__ import annotations

from typing import Any

import pytest

from raylm.model.freezing import freeze_parts
from raylm.train.config import Train
from raylm.trainer.forecast.load import size_of
from tests.parallel import loops

# as wide as no vocabulary: matrices are told apart by that
SHAPE = {**loops.SHAPE, "intermediate_size": 80}


def both(**table: Any) -> tuple[float, int]:
    """Trained numbers by forecast, and as they are."""
    cfg = Train.model_validate(
        {"stage": "train", "rows": "r", "model": SHAPE, "batch": 4, "steps": 4, "dtype": "float32", **table}
    )
    model: Any = cfg.model.build(loops.TOKENS, 0)  # type: ignore[union-attr]
    config = model.config.to_dict()
    freeze_parts(model, cfg.freeze, cfg.unfrozen_parameters)
    model = cfg.adapter.attach(model, 0) if cfg.adapter else model
    size = size_of(cfg, config, 1, 1)
    assert size.frozen_bytes == pytest.approx(
        4 * sum(p.numel() for n, p in model.named_parameters() if not p.requires_grad), rel=0.02
    )
    return size.trained, sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    "table",
    [
        {},
        {"freeze": ["layers.0"]},
        {"freeze": ["embed_tokens", "lm_head"]},
        {"unfrozen_parameters": ["layers.1.mlp", "norm"]},
        {"adapter": {"rank": 4}},
        {"adapter": {"rank": 4, "use_dora": True}},
        {"adapter": {"rank": 4, "modules_to_save": ["embed_tokens"]}},
    ],
    ids=str,
)
@pytest.mark.parametrize("tied", [True, False])
def test_what_is_trained_is_forecast(table, tied):
    if not tied:
        table = {**table, "model": {**SHAPE, "tie_embeddings": False}}
    forecast, counted = both(**table)
    assert forecast == pytest.approx(counted, rel=0.02)
