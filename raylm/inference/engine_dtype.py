"""The format that an engine computes in, decided before it starts by the checkpoint and by what this machine's kernels take.

One place for rl, evaluate and serve. vLLM chooses kernels layer by layer while it loads, and some refuse a format only when the
first request comes. Measured on vLLM 0.32, with each of its CPU libraries: W8A8 layers with symmetric activations run in bfloat16
on CPUs with AMX tiles (`int8_scaled_mm_with_quant` refuses float32), in every format on others (oneDNN); W4A16 layers compute in
16 bits (`cpu_gemm_wna16`) and are absent where there is no AVX-512; layers that are not quantized run in every format. Attention
of CPUs keeps keys and values in fp8 with AVX-512 or AMX alone (`_get_attn_isa`). Products of 8-bit weights and activations are
wrong by up to a quarter on x86 CPUs without VNNI instructions, and nothing says so: oneDNN adds them in pairs in 16 bits, which
overflow ("Nuances of int8 computations" of its guide); with weights within -64 and 64 they are exact.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from typing import Any, NamedTuple

from raylm.core.errors import ConfigError
from raylm.core.machine import cpu_flags

# what vLLM's attention on CPUs is compiled for
HEAD_SIZES = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)


# older files of compressed-tensors say it by the second name
QUANTIZATION = ("quantization_config", "compression_config")


class Machine(NamedTuple):
    """What decides the kernels of an engine on a CPU. `amx`: AMX tiles; `bf16`: products of bfloat16 in hardware; `vnni`: sums of
    8-bit products in 32 bits."""

    arch: str
    avx512: bool
    bf16: bool
    amx: bool
    vnni: bool

    @property
    def x86(self) -> bool:
        return self.arch in ("x86_64", "AMD64")


class EngineDtype(NamedTuple):
    """A number format, and why it is not the checkpoint's own ("" where it is)."""

    name: str
    why: str


def this_machine() -> Machine:
    """What this machine's CPU can do, as Linux says it: no torch is imported. Elsewhere nothing is taken for granted."""
    flags = cpu_flags()
    return Machine(
        platform.machine(),
        avx512="avx512f" in flags,
        bf16=bool(flags & {"avx512_bf16", "amx_bf16"}),
        amx="amx_tile" in flags,
        vnni=bool(flags & {"avx512_vnni", "avx_vnni", "amx_int8"}),
    )


def engine_dtype(
    config: dict[str, Any], asked: str, gpu: bool, machine: Machine | None = None, where: str = "", cache: str = "auto"
) -> EngineDtype:
    """The format that an engine computes in with the checkpoint of this config.json.

    Args:
        config: config.json of the checkpoint; {} where it is not known: then vLLM decides by what it finds.
        asked: what the job says; `auto` keeps the checkpoint's format where the kernels take it, and says why where not.
        gpu: whether the engine runs on a GPU; `machine` is not looked at then.
        machine: whose CPU; this machine's.
        where: named in the error.
        cache: format of keys and values that the job asks for, `kv_cache_dtype`.

    Raises:
        ConfigError: no kernel of this machine takes the checkpoint, its heads or its cache, or none takes it in the format that
            was asked for.
    """
    for why, instead in refusals(config, cache, gpu, machine or this_machine()):
        raise ConfigError(why, where=where, next=instead)
    own = stored_dtype(config)
    taken, why = formats(scheme_of(config), gpu, machine or this_machine())
    if not taken:
        raise ConfigError(f"no engine can run this checkpoint here: {why}", where=where, next="take another machine, or method")
    if asked == "auto":
        if own is None or own in taken:
            return EngineDtype(own or "auto", "")
        return EngineDtype(taken[0], f"not in the checkpoint's {own}: {why}")
    if asked not in taken:
        raise ConfigError(f"no engine can compute in {asked} here: {why}", where=where, next=f'say dtype = "{taken[0]}"')
    return EngineDtype(asked, "" if asked == own else f"not in the checkpoint's {own}: the job asks for it")


def refusals(config: dict[str, Any], cache: str, gpu: bool, machine: Machine) -> Iterator[tuple[str, str]]:
    """Why no engine can run this checkpoint on a machine, whatever it computes in, each with what to do instead."""
    if why := _cache(config, cache, gpu, machine):
        says = "drop kv_cache_dtype" if cache != "auto" else "compress it without kv_cache"
        yield why, f"take a GPU, a CPU with AVX-512, or {says}"
    if why := _overflow(config, gpu, machine):
        yield why, "compress it with reduce_range = true (int8, smooth_quant, mixed), or take another machine"
    if why := _heads(config, gpu):
        yield why, "take a GPU, or a model of another shape: hidden_size / num_heads decides it where head_dim is not said"


def _heads(config: dict[str, Any], gpu: bool) -> str:
    """Why attention on CPUs does not take this network's heads; "" where config.json alone does not say their size."""
    text = config.get("text_config") or config
    heads, hidden, size = (text.get(name) for name in ("num_attention_heads", "hidden_size", "head_dim"))
    # parts of a composite config are written without their class's defaults; some families say the size by another name
    if size is None and text is config and not text.keys() & {"hidden_size_per_head", "attention_head_dim"}:
        size = hidden // heads if isinstance(hidden, int) and isinstance(heads, int) and heads else None
    # latent attention keeps no heads
    if gpu or not isinstance(size, int) or size in HEAD_SIZES or text.get("kv_lora_rank"):
        return ""
    return f"its attention has heads of {size}; vLLM's attention on CPUs takes heads of {', '.join(map(str, HEAD_SIZES))}"


def _cache(config: dict[str, Any], asked: str, gpu: bool, machine: Machine) -> str:
    """Why no engine can keep keys and values as the job asks for, or as the checkpoint says where that is `auto`; "" where one
    can."""
    scheme = _quantized(config).get("kv_cache_scheme")
    own = asked == "auto" and scheme
    if own and not gpu and (scheme or {}).get("strategy") == "attn_head":
        return "this checkpoint has a scale for each head of its keys and values, of which vLLM on CPUs takes the largest"
    if gpu or machine.avx512 or machine.amx or not (own or asked.startswith("fp8")):
        return ""
    whose = "this checkpoint's keys and values are kept" if own else f"kv_cache_dtype = {asked!r} keeps keys and values"
    return f"{whose} in fp8, for which vLLM's attention on CPUs needs AVX-512, which this one lacks"


def _overflow(config: dict[str, Any], gpu: bool, machine: Machine) -> str:
    """Why products of this checkpoint's 8-bit layers would be wrong on a machine; "" where they are exact."""
    if gpu or machine.vnni or not machine.x86:
        return ""
    for group in (_quantized(config).get("config_groups") or {}).values():
        weights, inputs = group.get("weights") or {}, group.get("input_activations") or {}
        integers = all((each.get("type"), each.get("num_bits")) == ("int", 8) for each in (weights, inputs))
        if integers and not (weights.get("observer_kwargs") or {}).get("reduce_range"):
            return "products of whole 8-bit weights overflow without a word on a CPU without VNNI instructions"
    return ""


def quantization(*schemes: str, reduced: bool = False) -> dict[str, Any]:
    """What config.json will say of a checkpoint whose layers are of these schemes, as far as engines are decided by it."""
    groups = {}
    for scheme in filter(None, schemes):
        weights = {"type": "int", "num_bits": 8 if scheme == "W8A8" else 4, "observer_kwargs": {"reduce_range": reduced}}
        inputs = {"type": "int", "num_bits": 8, "symmetric": True} if scheme == "W8A8" else None
        groups[f"group_{len(groups)}"] = {"weights": weights, "input_activations": inputs}
    return {"config_groups": groups} if groups else {}


def _quantized(config: dict[str, Any]) -> dict[str, Any]:
    """How weights are quantized, wherever vLLM reads it; {} where they are not."""
    places = (config, config.get("text_config") or {})
    return next((found for each in places for name in QUANTIZATION if (found := each.get(name))), {})


def network_of(model: str) -> dict[str, Any]:
    """config.json of a folder, or of a hub name, whose is fetched; {} where there is none, or the hub cannot be asked."""
    from raylm.model.load import beside

    file = beside(model, "config.json")
    return json.loads(file.read_text()) if file else {}


def stored_dtype(config: dict[str, Any]) -> str | None:
    """What config.json says of the weights' format (a composite model's text part included); None where it says nothing."""
    for part in (config, config.get("text_config") or {}):
        if found := part.get("dtype") or part.get("torch_dtype"):
            return str(found).removeprefix("torch.")
    return None


def scheme_of(config: dict[str, Any]) -> str:
    """How linear layers are quantized, as far as it decides their kernels: `W8A8`, `W4A16` or "" (not, or another way)."""
    quantized = _quantized(config)
    if quantized.get("quant_method") in ("gptq", "awq"):
        return "W4A16"
    groups = (quantized.get("config_groups") or {}).values()
    whole = [group.get("input_activations") for group in groups if (group.get("weights") or {}).get("type") == "int"]
    # of several schemes the 4-bit one takes the fewest formats
    if None in whole:
        return "W4A16"
    # zero points go another way (oneDNN), which takes every format
    return "W8A8" if whole and whole[0].get("symmetric", True) else ""


def formats(scheme: str, gpu: bool, machine: Machine) -> tuple[tuple[str, ...], str]:
    """Formats that the kernels for a scheme take, the one to prefer first, and why there are no others."""
    halves = ("bfloat16", "float16")
    if scheme == "" or (scheme == "W8A8" and not gpu and not machine.amx):
        return ("float32", *halves), "vLLM knows float32, bfloat16 and float16"
    if gpu:
        return halves, f"{scheme} kernels of GPUs compute in 16 bits"
    if scheme == "W8A8":
        return ("bfloat16",), "the 8-bit kernels of CPUs with AMX take bfloat16"
    if machine.x86 and not machine.avx512:
        return (), "vLLM's 4-bit kernels need AVX-512, which this CPU lacks"
    return halves, "4-bit kernels compute in 16 bits"
