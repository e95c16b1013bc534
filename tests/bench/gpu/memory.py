"""The forecast of memory against the device's own peak, layout by layout."""

from __future__ import annotations

from functools import partial
from typing import Any

from tests.bench.gpu.check import LENGTH, MICRO, TINY_LENGTH, Check, facts, need, stage, trained

LAYOUTS: dict[str, dict[str, Any]] = {
    "float32": {},
    "bfloat16": {"dtype": "bfloat16"},
    "selective": {"dtype": "bfloat16", "activation_checkpointing": "selective"},
    "full": {"dtype": "bfloat16", "activation_checkpointing": "full"},
    "adapter": {"dtype": "bfloat16", "adapter": {"kind": "lora", "rank": 16}},
    "four_bits": {"dtype": "bfloat16", "adapter": {"kind": "qlora", "rank": 16}},
    "adafactor": {"dtype": "bfloat16", "optimizer": {"kind": "adafactor"}},
    "eight_bit": {"dtype": "bfloat16", "optimizer": {"bits": 8}},
    "plain_loss": {"dtype": "bfloat16", "cross_entropy": "plain"},
    "moving_average": {"dtype": "bfloat16", "ema": 0.99},
}
WITHIN = 0.15


def forecast(name: str, smoke: bool) -> dict[str, Any]:
    """GB at the peak of a step, by the allocator and by the forecast; on CPUs the forecast alone."""
    from raylm.trainer.forecast.memory import memory_of

    table = LAYOUTS[name]
    if "adapter" in table:
        need("peft")
    if table.get("adapter", {}).get("kind") == "qlora":
        need("bitsandbytes")
    if table.get("optimizer", {}).get("bits") == 8:
        need("bitsandbytes")
    cfg = stage(table, tiny=smoke, steps=3)
    made = memory_of(
        cfg, cfg.model.config(facts(smoke)), length=TINY_LENGTH if smoke else LENGTH, micro=MICRO, world=1,
        num_micros=cfg.batch // MICRO,
    )  # fmt: skip
    told = made.total - made.process
    found = {
        "forecast_gb": told / 1e9,
        **{f"{part}_gb": v / 1e9 for part, v in made._asdict().items() if isinstance(v, float) and v},
    }
    peak = trained(table, smoke=smoke, steps=3).peak
    if not peak:
        return found
    return {"ok": smoke or abs(told / peak - 1) < WITHIN, "measured_gb": peak / 1e9, "ratio": told / peak, **found}


CHECKS = {name: Check(partial(forecast, name)) for name in LAYOUTS}
