"""A stage and a device: suggested layouts fit, are ordered and can be pasted; and what is refused."""

from __future__ import annotations

import tomllib

import pytest

from raylm.core.errors import ConfigError, PlanError
from raylm.train.config import Train
from raylm.trainer.forecast.devices import device_of, devices
from raylm.trainer.forecast.report import Known, forecast, suggestions
from raylm.trainer.forecast.suggest import layout_of
from tests.trainer.forecast.test_speed import L8, L70


def stage(count=8, device="h100", **keys):
    return Train(
        stage="train", rows="r", model="a/b", batch=64, steps=1000, dtype="bfloat16",
        workers={"count": count, "gpus": 1, "device": device}, **keys,
    )  # fmt: skip


def test_suggested_layouts_can_be_pasted_and_are_ordered():
    found = suggestions(stage(64), Known(L70, 8192, 64, 1000))
    assert len(found) == 5
    for told, toml in found:
        keys = tomllib.loads(toml)
        made = stage(64, **{**keys, "strategy": keys["strategy"]})
        assert forecast(made, Known(L70, 8192, 64, 1000), "base")[-1].split(",")[0] == told.split(",")[0]


def test_a_layout_that_cannot_fit_is_refused_with_its_numbers():
    with pytest.raises(PlanError, match=r"base needs 2\d\d\.\d GB on each of 8 ranks, h100 has 80 GB") as caught:
        forecast(stage(strategy={"kind": "ddp"}, micro_batch=1), Known(L8, 8192, 64, 1000), "base")
    assert "--suggest base" in str(caught.value.next)
    assert forecast(stage(micro_batch=1, activation_checkpointing="full"), Known(L8, 8192, 64, 1000), "base")


def test_what_fits_nowhere_says_by_how_much():
    with pytest.raises(PlanError, match="no layout fits 1 x rtx4090"):
        suggestions(stage(1, "rtx4090"), Known(L8, 8192, 64, 1000))
    with pytest.raises(PlanError, match="needs to know the device"):
        suggestions(stage(1, None), Known(L8, 8192, 64, 1000))


def test_float8_on_a_device_without_it_is_refused_in_words():
    with pytest.raises(PlanError, match="no float8"):
        forecast(stage(device="a100").model_copy(update={"dtype": "float8"}), Known(L8, 2048, 64, 1000), "base")


def test_an_adapter_holds_its_frozen_weights_once_and_a_reference_is_a_second_model():
    """8.03 B weights: 16 GB in bfloat16 beside an adapter; 32 GB more in float32 for the frozen start of DPO."""
    adapter = layout_of(stage(1, adapter={"rank": 8}), L8, device_of("h100"), length=512, batch=64, micro=1, world=1).memory
    assert 16.0 < adapter.weights / 1e9 < 16.6 and adapter.gathered < 0.1e9
    plain, dpo = (
        layout_of(stage(1, **keys), L8, device_of("h100"), length=512, batch=64, micro=1, world=1)
        for keys in ({}, {"objective": {"kind": "dpo"}})
    )
    assert (dpo.memory.weights - plain.memory.weights) / 1e9 == pytest.approx(32.1, abs=0.1)
    # twice the rows, and a third more work for each
    assert dpo.speed.compute_s / plain.speed.compute_s == pytest.approx(8 / 3)


def test_unknown_devices_are_named():
    with pytest.raises(ConfigError, match=r"no device is called 'h10'\. Did you mean 'h100'"):
        device_of("h10")
    assert all(one.bfloat16 > 0 and one.memory_gb > 0 for one in devices().values())


def test_without_a_device_memory_is_told_and_speed_is_not():
    lines = forecast(stage(device=None), Known(L8, 2048, 64, 1000), "base")
    assert "8.03 B parameters" in lines[0]
    assert "GB per rank" in lines[1] and len(lines) == 2
