"""The dtype of engines, for checkpoints and machines of several kinds, before any engine starts."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from raylm.core.errors import ConfigError
from raylm.inference.engine_dtype import HEAD_SIZES, Machine, engine_dtype, network_of, scheme_of, stored_dtype, this_machine

AMX = Machine("x86_64", avx512=True, bf16=True, amx=True, vnni=True)
AMD = Machine("x86_64", avx512=True, bf16=True, amx=False, vnni=True)
OLD = Machine("x86_64", avx512=False, bf16=False, amx=False, vnni=False)
ARM = Machine("aarch64", avx512=False, bf16=False, amx=False, vnni=False)


def config(
    weights_bits: int | None = None, inputs: dict | None = None, dtype: str | None = "float32", reduced: bool = False, **keys
) -> dict:
    """config.json of a checkpoint; `weights_bits` quantizes it as compressed-tensors says it."""
    told = dict(keys) if dtype is None else {"dtype": dtype, **keys}
    if weights_bits:
        group = {"weights": {"num_bits": weights_bits, "type": "int"}, "input_activations": inputs and {"type": "int", **inputs}}
        if reduced:
            group["weights"]["observer_kwargs"] = {"reduce_range": True}
        told["quantization_config"] = {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}}
    return told


INT8 = config(8, {"num_bits": 8, "symmetric": True})
INT4 = config(4)


@pytest.mark.parametrize(
    ("network", "machine", "gpu", "name"),
    [
        (config(), AMX, False, "float32"),
        (config(), OLD, False, "float32"),
        (config(dtype="bfloat16"), OLD, False, "bfloat16"),
        (config(dtype="torch.float16"), AMX, False, "float16"),
        (config(dtype="float64"), AMD, False, "float32"),
        (INT8, AMX, False, "bfloat16"),
        (INT8, AMD, False, "float32"),
        (config(8, {"num_bits": 8}, reduced=True), OLD, False, "float32"),
        # 8-bit weights whose activations are left alone make no 8-bit products
        (config(8), AMD, False, "bfloat16"),
        (INT8, ARM, False, "float32"),
        (INT8, AMD, True, "bfloat16"),
        (INT8 | {"dtype": "float16"}, AMD, True, "float16"),
        # activations with a zero point are multiplied by oneDNN on every CPU
        (config(8, {"num_bits": 8, "symmetric": False}), AMX, False, "float32"),
        (INT4, AMX, False, "bfloat16"),
        (INT4, AMD, False, "bfloat16"),
        (INT4 | {"dtype": "float16"}, AMD, False, "float16"),
        ({"dtype": "float32", "quantization_config": {"quant_method": "awq"}}, AMD, False, "bfloat16"),
        # a composite model says it of its text part; a hub name says nothing yet
        ({"text_config": {"torch_dtype": "bfloat16"}}, AMD, False, "bfloat16"),
        ({}, AMX, False, "auto"),
    ],
)
def test_the_checkpoints_format_unless_kernels_refuse_it(network, machine, gpu, name):
    found = engine_dtype(network, "auto", gpu, machine)
    assert found.name == name
    assert bool(found.why) == (stored_dtype(network) not in (name, None))


def test_what_the_job_asks_for_is_refused_before_the_engine_starts():
    assert engine_dtype(INT8, "float32", False, AMD).name == "float32"
    assert engine_dtype(config(), "bfloat16", False, OLD) == ("bfloat16", "not in the checkpoint's float32: the job asks for it")
    with pytest.raises(ConfigError, match=r"can compute in float32 here: the 8-bit kernels of CPUs with AMX.*\n.*bfloat16"):
        engine_dtype(INT8, "float32", False, AMX)
    with pytest.raises(ConfigError, match="4-bit kernels need AVX-512"):
        engine_dtype(INT4, "auto", False, OLD)


def test_heads_that_attention_on_cpus_does_not_take_are_refused():
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    assert list(HEAD_SIZES) == CPUAttentionBackend.get_supported_head_sizes()
    shape = {"hidden_size": 96, "num_attention_heads": 4}
    for network in (
        shape,
        {"text_config": {**shape, "head_dim": 24}},
        {"hidden_size": 512, "num_attention_heads": 4, "head_dim": 24},
    ):
        assert engine_dtype(network, "float32", True, AMX).name
        with pytest.raises(ConfigError, match=r"heads of 24; vLLM's attention on CPUs takes heads of 32, 64"):
            engine_dtype(network, "float32", False, AMX)
    # a part of a composite config is written without its class's defaults, of which head_dim may be one
    known = ({**shape, "head_dim": 32}, {**shape, "kv_lora_rank": 8}, {**shape, "hidden_size": 128})
    for network in (
        *known,
        {"text_config": shape},
        {**shape, "attention_head_dim": 64},
        {**shape, "num_attention_heads": [4, 2]},
    ):
        assert engine_dtype(network, "float32", False, AMX).name


def test_8_bit_products_that_overflow_are_refused():
    asymmetric = config(8, {"num_bits": 8, "symmetric": False})
    for network in (INT8, asymmetric):
        with pytest.raises(ConfigError, match=r"8-bit weights overflow.*\n.*reduce_range = true"):
            engine_dtype(network, "auto", False, OLD)
        assert engine_dtype(network, "auto", True, OLD).name
    for place in ({"compression_config": INT8["quantization_config"]}, {"text_config": INT8}):
        with pytest.raises(ConfigError, match="overflow"):
            engine_dtype(place, "float32", False, OLD)
    # one group of two is enough
    mixed = config(4)
    mixed["quantization_config"]["config_groups"]["group_1"] = INT8["quantization_config"]["config_groups"]["group_0"]
    with pytest.raises(ConfigError, match="overflow"):
        engine_dtype(mixed, "auto", False, OLD._replace(avx512=True))


def test_8_bit_products_overflow_where_there_is_no_vnni():
    """What the decision rests on, by the kernel itself: weights of the whole range are exact where this machine is said to have
    the instructions, weights within half of it everywhere."""
    import torch
    import vllm.platforms

    if not this_machine().x86:
        pytest.skip("the kernel of this CPU is another one")
    vllm.platforms.current_platform.import_kernels()
    from vllm import _custom_ops as ops

    generator = torch.Generator().manual_seed(0)
    inputs_MK = torch.randint(-128, 128, (16, 256), dtype=torch.int8, generator=generator)

    # the handler keeps no reference to them
    scale_1N, scale_11, out_MN = torch.ones(1, 64), torch.ones(1, 1), torch.empty(16, 64)

    def exact(largest: int) -> bool:
        weights_NK = torch.randint(-largest, largest + 1, (64, 256), dtype=torch.int8, generator=generator)
        handler = ops.create_onednn_scaled_mm(weights_NK.t(), scale_1N, torch.float32, False, False, 32)
        ops.onednn_scaled_mm(handler, inputs_MK, out_MN, scale_11, None, None, None)
        return torch.equal(out_MN.long(), inputs_MK.long() @ weights_NK.long().t())

    assert exact(64)
    assert exact(127) == this_machine().vnni


def test_keys_and_values_in_fp8_want_avx512_or_a_gpu():
    kept, unkept = ({"dtype": "float32", "quantization_config": {"kv_cache_scheme": each}} for each in ({"num_bits": 8}, None))
    for machine, gpu in ((AMX, False), (AMD, False), (OLD, True)):
        assert engine_dtype(kept, "auto", gpu, machine).name == engine_dtype({}, "float32", gpu, machine, "", "fp8").name
    assert engine_dtype(unkept, "auto", False, OLD).name == "float32"
    for machine in (OLD, ARM):
        with pytest.raises(
            ConfigError, match=r"this checkpoint's keys and values are kept in fp8.*\n.*compress it without kv_cache"
        ):
            engine_dtype(kept, "auto", False, machine)
        with pytest.raises(ConfigError, match=r"kv_cache_dtype = 'fp8_e5m2' keeps.*AVX-512.*\n.*or drop kv_cache_dtype"):
            engine_dtype(unkept, "auto", False, machine, "", "fp8_e5m2")


def test_scales_of_heads_want_a_gpu():
    """On CPUs vLLM would take the largest of them for all heads of a layer."""
    heads = {"quantization_config": {"kv_cache_scheme": {"num_bits": 8, "type": "float", "strategy": "attn_head"}}}
    assert engine_dtype(heads, "float32", True).name == engine_dtype(heads, "float32", False, cache="bfloat16").name == "float32"
    with pytest.raises(ConfigError, match="a scale for each head"):
        engine_dtype(heads, "float32", False)


def test_a_checkpoint_that_raylm_wrote_is_recognised(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(INT8))
    assert scheme_of(network_of(str(tmp_path))) == "W8A8"


def test_a_hubs_name_is_looked_up(tmp_path):
    """Offline: one that was fetched, and one that never was."""
    at = tmp_path / "hub" / "models--org--model"
    for folder in ("refs", "snapshots/abc"):
        (at / folder).mkdir(parents=True)
    (at / "refs" / "main").write_text("abc")
    (at / "snapshots" / "abc" / "config.json").write_text(json.dumps(INT8))
    code = "from raylm.inference.engine_dtype import network_of, scheme_of\n"
    code += "print([scheme_of(network_of(name)) for name in ('org/model', 'org/other')])"
    environment = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True).stdout
    assert told.splitlines()[-1] == "['W8A8', '']"


def test_this_machine_is_what_torch_sees():
    """vLLM asks torch when it chooses kernels; plan and doctor read it without torch."""
    import torch

    seen = this_machine()
    assert seen.avx512 == torch.cpu._is_avx512_supported()
    assert seen.amx == torch.cpu._is_amx_tile_supported()


def test_the_8_bit_kernel_of_cpus_with_amx_takes_no_float32():
    """What the decision rests on, said by the kernel itself: it looks at the format before it computes, so on every machine."""
    import torch
    import vllm.platforms

    vllm.platforms.current_platform.import_kernels()
    kernel = getattr(torch.ops._C, "int8_scaled_mm_with_quant", None)
    # vLLM's library for CPUs without AVX-512 has no such kernel, and never asks for it
    if kernel is not None:
        packed = torch.zeros(32, 32 + 4, dtype=torch.int8)
        with pytest.raises(RuntimeError, match="expect A to be bfloat16 or half"):
            kernel(torch.zeros(2, 32), packed, torch.ones(32), None, torch.float32, True)
