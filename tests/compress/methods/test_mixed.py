"""The `mixed` method: budgets are kept, more divergence is fewer bytes, files of two schemes load as they were written."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from raylm.compress.config import Compress
from raylm.compress.stage import compress
from raylm.core.artifact import Tokens
from raylm.core.errors import ConfigError
from raylm.inference.engine_dtype import Machine, engine_dtype
from tests.model.tiny import tiny_checkpoint
from tests.rows import counting_rows, make_rows


def made(tmp_path, name, **budget):
    path, rows = str(tmp_path / "base"), str(tmp_path / "rows")
    if not (tmp_path / "base").exists():
        tiny_checkpoint(tmp_path / "base", vocab=300, layers=2)
        make_rows(tmp_path, "rows", Tokens, counting_rows(16))
    method = {"kind": "mixed", "group_size": 32, **budget}
    cfg = Compress(stage="compress", model=path, calibration=rows, calibration_rows=8, method=method)
    return compress(cfg, path, rows, str(tmp_path / name))


def test_a_budget_of_divergence_is_kept_with_as_few_bytes_as_it_takes(tmp_path):
    loose, tight = (made(tmp_path, str(most), max_kl=most, reduce_range=True) for most in (0.1, 0.0008))
    assert loose.metrics["kl_calibration"] <= 0.1 and tight.metrics["kl_calibration"] <= 0.0008
    assert loose.metrics["bytes_after"] < tight.metrics["bytes_after"]
    assert loose.facts["bits"]["layers_4_bits"] == 14
    bits = tight.facts["bits"]
    assert bits["layers_4_bits"] and bits["layers_8_bits"], bits
    config = json.loads((tmp_path / "0.0008" / "config.json").read_text())["quantization_config"]
    assert sorted(group["format"] for group in config["config_groups"].values()) == ["int-quantized", "pack-quantized"]
    # the layers of 8 bits, in bfloat16, stay within half of the range, and say so
    stored = load_file(tmp_path / "0.0008" / "model.safetensors")
    assert {int(each.abs().max()) for each in stored.values() if each.dtype == torch.int8} == {64}
    for machine in (Machine("x86_64", avx512=True, bf16=False, amx=False, vnni=vnni) for vnni in (True, False)):
        assert engine_dtype(json.loads((tmp_path / "0.0008" / "config.json").read_text()), "auto", False, machine).name


def test_a_budget_of_bytes_is_kept_or_refused_with_what_can_be_had(tmp_path):
    smallest = made(tmp_path, "loose", max_kl=1.0).metrics["bytes_after"] / 1e6
    found = made(tmp_path, "mb", max_mb=smallest * 1.2)
    assert found.metrics["bytes_after"] / 1e6 <= smallest * 1.2
    assert sum(count for bits, count in found.facts["bits"].items() if bits != "layers_4_bits")
    with pytest.raises(ConfigError, match=r"at most 0\.01 MB cannot be had: the smallest choice takes 0\.\d MB"):
        made(tmp_path, "none", max_mb=0.01)
    with pytest.raises(ValueError, match="mixed needs a budget"):
        Compress(stage="compress", model="m", calibration="rows", method={"kind": "mixed"})
