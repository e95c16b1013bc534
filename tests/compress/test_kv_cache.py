"""Scales of an 8-bit cache: those of the largest key and value, computed by hand; with plain weights and with rounded ones;
loaded by transformers and by vLLM as they were written."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from raylm.compress.calibration import Calibration
from raylm.compress.config import Compress
from raylm.compress.kv_cache import KvCache
from raylm.compress.stage import compress
from raylm.core.artifact import Tokens
from raylm.core.errors import ConfigError
from raylm.model.load import load_model
from tests.compress.small import ROWS
from tests.model.tiny import tiny_checkpoint, tiny_model
from tests.rows import counting_rows, make_rows

E4M3 = 448.0


def by_hand(model, ids) -> dict[str, torch.Tensor]:
    """Largest magnitude of keys behind the rotation and of values, [heads], by layer: from the projections themselves."""
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    entering, found = {}, {}
    layers = dict(enumerate(model.model.layers))
    hooks = [
        layer.self_attn.register_forward_pre_hook(lambda _, args, kwargs, at=at: entering.update({at: kwargs}), with_kwargs=True)
        for at, layer in layers.items()
    ]
    with torch.no_grad():
        model(ids)
        for at, layer in layers.items():
            x, (cos, sin) = entering[at]["hidden_states"], entering[at]["position_embeddings"]
            key, value = (
                each(x).view(*x.shape[:2], -1, layer.self_attn.head_dim).transpose(1, 2)
                for each in (layer.self_attn.k_proj, layer.self_attn.v_proj)
            )
            key = apply_rotary_pos_emb(key, key, cos, sin)[1]
            for what, states in (("k", key), ("v", value)):
                found[f"model.layers.{at}.self_attn.{what}_scale"] = states.abs().amax((0, 2, 3))
    for hook in hooks:
        hook.remove()
    return found


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    at = tmp_path_factory.mktemp("base")
    make_rows(at, "tokens", Tokens, counting_rows(40))
    return str(tiny_checkpoint(at / "base", vocab=300)), str(at / "tokens")


def made(base, out, **table):
    path, rows = base
    cfg = Compress(**{"stage": "compress", "model": path, "calibration": rows, "calibration_rows": 8, "kv_cache": {}} | table)
    return compress(cfg, path, rows, str(out))


@pytest.mark.parametrize("scales", ["tensor", "head"])
def test_scales_are_those_of_the_largest_key_and_value(base, tmp_path, scales):
    path, rows = base
    done = made(base, tmp_path / "out", kv_cache={"scales": scales})
    model = load_model(path, "float32").eval()
    ids = Calibration.open(rows, path, model.config, 8).batches()
    found = [by_hand(model, each) for each in ids]
    stored = load_file(tmp_path / "out" / "model.safetensors")
    for name in found[0]:
        largest = torch.stack([each[name] for each in found]).amax(0)
        expected = largest if scales == "head" else largest.amax()[None]
        torch.testing.assert_close(stored[name].flatten(), expected / E4M3, rtol=1e-5, atol=0)
    scheme = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]["kv_cache_scheme"]
    assert (scheme["num_bits"], scheme["type"], scheme["strategy"]) == (8, "float", {"head": "attn_head"}.get(scales, scales))
    assert done.facts["kv_cache"] == {"dtype": "fp8_e4m3", "scales": scales} and done.facts["rounded_share"] == 0
    # 2 layers of 2 heads of 32, keys and values
    assert (done.metrics["cache_bytes_per_token"], done.metrics["cache_bytes_per_token_before"]) == (256, 1024)
    weights = load_file(f"{path}/model.safetensors")
    assert all(torch.equal(stored[name], weight) for name, weight in weights.items())
    assert 0 < done.metrics["kl"] < 5e-3


@pytest.mark.parametrize("method", [{"kind": "int8", "activations": "static"}, {"kind": "awq", "group_size": 32}])
def test_beside_rounded_weights(base, tmp_path, method):
    """awq moves size from the values into the layer behind them: the scales are those of the model that is written."""
    plain = made(base, tmp_path / "plain", method=method, kv_cache=None)
    both = made(base, tmp_path / "both", method=method)
    assert both.facts["rounded_share"] == plain.facts["rounded_share"] > 0.7
    assert both.facts["kv_cache"]["scales"] == "tensor" and both.metrics["kl"] != plain.metrics["kl"]
    weights, stored = (load_file(tmp_path / each / "model.safetensors") for each in ("plain", "both"))
    assert all(torch.equal(stored.pop(name), weight) for name, weight in weights.items()) and len(stored) == 4
    written, loaded = (load_model(str(tmp_path / each)).eval() for each in ("plain", "both"))
    found = [by_hand(written, ids) for ids in Calibration.open(base[1], base[0], written.config, 8).batches()]
    for name, scale in stored.items():
        expected = torch.stack([each[name] for each in found]).amax() / E4M3
        torch.testing.assert_close(scale.float(), expected[None].float(), rtol=1e-2, atol=0)
        layer, _, own = name.rpartition(".")
        assert torch.equal(getattr(loaded.get_submodule(layer), own).data, scale)


def test_a_wrong_scale_is_another_model(base, tmp_path):
    """What transformers computes of the files is decided by the scales: keys cut off at a tenth of their size."""
    made(base, tmp_path / "out")
    file = tmp_path / "out" / "model.safetensors"
    right = load_model(str(tmp_path / "out")).eval()
    stored = load_file(file)
    from safetensors.torch import save_file

    save_file({name: each / 10 if name.endswith("k_scale") else each for name, each in stored.items()}, file, {"format": "pt"})
    wrong = load_model(str(tmp_path / "out")).eval()
    with torch.no_grad():
        apart, own = (float((each(ROWS).logits - right(ROWS).logits).abs().max()) for each in (wrong, right))
    assert own == 0 and apart > 0.1


LOADS = """
import json, sys
import torch
from vllm.config import set_current_vllm_config
from vllm.distributed import ensure_model_parallel_initialized, init_distributed_environment
from vllm.engine.arg_utils import EngineArgs
from vllm.model_executor.model_loader import get_model

# as vLLM's own worker does it on a CPU
torch.accelerator.empty_cache = lambda: None
config = EngineArgs(model=sys.argv[1], dtype="float32", enforce_eager=True, max_model_len=64).create_engine_config()
with set_current_vllm_config(config):
    init_distributed_environment(1, 0, f"file://{sys.argv[2]}", 0, "gloo")
    ensure_model_parallel_initialized(1, 1)
    layers = [layer.self_attn.attn for layer in get_model(vllm_config=config).model.layers]
print("loaded:", json.dumps([[each.kv_cache_dtype, each._k_scale_float, each._v_scale_float] for each in layers]))
"""


@pytest.mark.vllm
@pytest.mark.long
@pytest.mark.parametrize("method", [None, {"kind": "int8"}])
def test_vllm_loads_the_scales(base, tmp_path, method):
    """The engine's model, without an engine: attention in fp8 itself wants AVX-512 or a GPU."""
    made(base, tmp_path / "out", method=method)
    command = [sys.executable, "-c", LOADS, str(tmp_path / "out"), str(tmp_path / "meeting")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    told = next(line for line in done.stdout.splitlines() if line.startswith("loaded:"))
    stored = load_file(tmp_path / "out" / "model.safetensors")
    expected = [[float(stored[f"model.layers.{at}.self_attn.{what}_scale"]) for what in "kv"] for at in range(2)]
    assert json.loads(told.removeprefix("loaded:")) == [["fp8", *each] for each in expected]


def test_refused_where_no_scale_has_a_place():
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=32, vocab_size=300, n_positions=64)).eval()
    with pytest.raises(ConfigError, match=r"no scales for GPT2LMHeadModel: 0 attention layers of it can hold them, 1 came"):
        KvCache().measure(model, Calibration(list(ROWS)))
    broken = tiny_model(vocab=300, layers=1).eval()
    broken.model.layers[0].self_attn.v_proj.weight.data[0, 0] = float("nan")
    with pytest.raises(Exception, match=r"keys or values of model.layers.0.self_attn are not finite"):
        KvCache().measure(broken, Calibration(list(ROWS)))


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({}, "kv_cache needs `calibration`"),
        ({"calibration": "t", "format": {"kind": "gguf"}}, "format gguf has no place for scales of a cache: drop format"),
        (
            {"calibration": "t", "method": {"kind": "depth", "share": 0.5}},
            "has no place for scales of a cache: drop kv_cache, or",
        ),
    ],
)
def test_misfits(table, words):
    with pytest.raises(ValueError, match=words):
        Compress(**{"stage": "compress", "model": "base", "kv_cache": {}} | table)
