"""The forecast of an engine: its cache against published figures, its seconds against bounds worked by hand."""

from __future__ import annotations

import pytest

from raylm.trainer.forecast.devices import device_of, devices
from raylm.trainer.forecast.generation import READ, STEP_S, engine_memory, generation_of, kv_bytes_per_token
from tests.trainer.forecast.test_speed import L8, L70, L405, llama

V3 = {"num_hidden_layers": 61, "kv_lora_rank": 512, "qk_rope_head_dim": 64, "num_attention_heads": 128, "hidden_size": 7168}


@pytest.mark.parametrize(("config", "kilobytes"), [(V3, 70.272), (llama(8192, 80, 64, 8, 29568), 327.680), (L405, 516.096)])
def test_keys_and_values_of_a_token(config, kilobytes):
    """https://arxiv.org/abs/2505.09343, table 1: DeepSeek-V3, Qwen2.5-72B, Llama 3.1 405B in bfloat16."""
    assert kv_bytes_per_token(config, 2) == kilobytes * 1000


def test_what_an_engine_holds():
    made = engine_memory(L8, device_of("h100"), 0.85, 2)
    assert made.weights == pytest.approx(16.06e9, rel=0.001) and 2e9 < made.working < 5e9
    assert made.weights + made.working + made.cache == pytest.approx(0.85 * 80e9)
    assert made.tokens == int(made.cache / 131_072) and made.sequences(made.tokens) == 1 and made.sequences(1) == 1024
    assert engine_memory(L70, device_of("h100"), 0.85, 2).sequences(1) == 0, "no room for weights"
    spread = engine_memory(L70, device_of("h100"), 0.85, 2, tensor=4)
    assert spread.weights == pytest.approx(70.55e9 * 2 / 4, rel=0.001) and spread.sequences(4096) > 32


def test_a_batch_is_never_faster_than_memory_and_products_allow():
    device, length = device_of("h100"), {"prompt_length": 512, "completion_length": 1024}
    memory = engine_memory(L8, device, 0.85, 2)
    one = generation_of(L8, device, memory, prompts=1, each=1, **length)
    # a single sequence: each step reads 16 GB of weights and half of its own cache
    read = (memory.weights + 1024 * memory.per_token) / (3350e9 * READ)
    assert one.decode_s == pytest.approx(1024 * (read + STEP_S)) and one.tokens == 1024
    many = generation_of(L8, device, memory, prompts=16, each=8, **length)
    assert 1 < many.decode_s / one.decode_s < 4, "128 at once cost little more than one"
    assert many.prefill_s == pytest.approx(16 * one.prefill_s), "completions of a prompt read it once"
    twice = generation_of(L8, device, memory, prompts=2 * memory.sequences(1536), each=1, **length)
    full = generation_of(L8, device, memory, prompts=memory.sequences(1536), each=1, **length)
    assert twice.decode_s == pytest.approx(2 * full.decode_s), "what does not fit at once waits"


def test_all_devices_say_their_bandwidth():
    assert all(500 <= device.memory_gb_s <= 10_000 for device in devices().values())
