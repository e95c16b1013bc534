"""Forecast of an engine that generates: its memory on one GPU, and seconds of a batch of completions. No torch.

memory   weights, room to compute, and what is left of the engine's share for keys and values
prefill  FLOPs of the prompts over the peak
decode   each step reads all weights, and the keys and values of every sequence under way
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from raylm.model.model_spec import model_spec
from raylm.trainer.forecast.devices import Device
from raylm.trainer.forecast.speed import REACHED

# tokens that an engine computes at once while it reads prompts, and sequences that it has under way at most: vLLM's defaults
# for batches on GPUs of this size
PREFILL_TOKENS, MOST_SEQUENCES = 8192, 1024
# CUDA's context, its graphs and the allocator's rounding, bytes
PROCESS = 2.0e9
# share of the memory's bandwidth, and of the dense peak, that decoding reaches
READ, COMPUTED = 0.7, 0.5
# seconds of a decoding step that neither memory nor products take: scheduling, sampling, launching
STEP_S = 0.003


class EngineMemory(NamedTuple):
    """Bytes on each GPU of one engine."""

    weights: float
    working: float
    """While it computes, and what CUDA holds."""
    cache: float
    """Left for keys and values; below 0 where there is no room for weights."""
    per_token: float
    """Keys and values of one token."""
    tensor: int = 1
    """GPUs over which the engine is spread."""

    @property
    def tokens(self) -> int:
        """Tokens whose keys and values fit."""
        return max(0, math.floor(self.cache / self.per_token))

    def sequences(self, length: int) -> int:
        """Sequences of `length` tokens that fit at once."""
        return min(MOST_SEQUENCES, self.tokens // length)


def kv_bytes_per_token(config: dict[str, Any], width: int) -> float:
    """Bytes of keys and values of one token, in all layers.

    Args:
        width: bytes of a number.
    """
    layers = config["num_hidden_layers"]
    if "kv_lora_rank" in config:
        # latent attention keeps one latent and the rotary key (https://arxiv.org/abs/2405.04434, section 2.1)
        return float(layers * (config["kv_lora_rank"] + config["qk_rope_head_dim"]) * width)
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    return float(2 * layers * (config.get("num_key_value_heads") or heads) * head_dim * width)


def engine_memory(config: dict[str, Any], device: Device, share: float, width: int, tensor: int = 1) -> EngineMemory:
    """What an engine holds on each of its GPUs.

    Args:
        share: part of the GPU's memory that it may take.
        width: bytes of a weight.
        tensor: GPUs over which matrices, vocabulary and heads are spread.
    """
    wide = config.get("intermediate_size") or config["moe_intermediate_size"]
    computed = PREFILL_TOKENS * (4 * config["hidden_size"] + 2 * wide / tensor) * width
    # logits and log-probabilities in float32 of the sequences that get a token
    logits = 2 * 4.0 * MOST_SEQUENCES * config["vocab_size"]
    weights, working = width * model_spec(config).num_parameters() / tensor, computed + logits + PROCESS
    cache = share * device.memory_gb * 1e9 - weights - working
    return EngineMemory(weights, working, cache, kv_bytes_per_token(config, width) / tensor, tensor)


class Generation(NamedTuple):
    """A batch of completions on one engine, in seconds."""

    prefill_s: float
    decode_s: float
    tokens: float
    """Of the completions."""

    @property
    def seconds(self) -> float:
        return self.prefill_s + self.decode_s


def generation_of(
    config: dict[str, Any],
    device: Device,
    memory: EngineMemory,
    *,
    prompts: float,
    each: int,
    prompt_length: float,
    completion_length: float,
) -> Generation:
    """The forecast of one engine.

    Args:
        prompts: that this engine answers.
        each: completions of a prompt, whose keys and values they share.
        completion_length: of all of them: where the batch waits for the longest, say the longest.
    """
    parts, width = model_spec(config), memory.weights * memory.tensor / model_spec(config).num_parameters()
    active, sequences = parts.num_active_parameters(), prompts * each
    peak = (device.bfloat16 if width < 4 else device.bfloat16 / 2) * 1e12 * memory.tensor
    prefill = 2.0 * active * prompts * prompt_length / (peak * REACHED["bfloat16" if width < 4 else "float32"])
    at_once = max(1, min(sequences, memory.sequences(round(prompt_length + completion_length))))
    waves = sequences / at_once
    # halfway through, a sequence has its prompt and half of its completion behind it
    cached = at_once * (prompt_length + completion_length / 2) * memory.per_token
    read = (memory.weights + cached) / (device.memory_gb_s * 1e9 * READ)
    computed = 2.0 * active * at_once / (peak * COMPUTED)
    return Generation(prefill, waves * completion_length * (STEP_S + max(read, computed)), sequences * completion_length)
