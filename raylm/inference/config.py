"""What a stage may say of its engines and generators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from raylm.core.config import Config, EngineUse, Role
from raylm.inference.speculation import AnySpeculation
from raylm.inference.sync import AnySync
from raylm.inference.sync.object_store import ObjectStore

MEMORY_SHARE = 0.85
"""Part of a whole GPU's memory that an engine's weights and cache take."""

CPU_KV_CACHE_DTYPES = ("auto", "fp8", "fp8_e4m3", "fp8_e5m2")
"""Formats that vLLM's attention on CPUs takes."""


class EngineOptions(Config):
    """What every vLLM engine may be told, whoever asks it."""

    tensor_parallel: int = Field(default=1, ge=1)
    """GPUs that one engine's weights are spread over; they stand in `gpus`."""
    max_num_seqs: int | None = Field(default=None, ge=1)
    """Most sequences that an engine works on at once; default: vLLM's own, 256 on a CPU. The others wait."""
    enable_prefix_caching: bool | None = None
    """Keep what was computed of prompts that begin alike, until new weights come; default: vLLM's own, which is to keep it."""
    kv_cache_dtype: Literal[
        "auto",
        "float16",
        "bfloat16",
        "fp8",
        "fp8_e4m3",
        "fp8_e5m2",
        "int8_per_token_head",
        "fp8_per_token_head",
        "int4_per_token_head",
        "nvfp4",
    ] = "auto"
    """Format of keys and values in the cache. fp8 takes half the memory of 16 bits and answers slightly otherwise than the
    checkpoint; CPUs take auto and the three of fp8, with AVX-512 or AMX."""

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of vLLM's engine that are not its defaults."""
        found = {
            "tensor_parallel_size": self.tensor_parallel if self.tensor_parallel > 1 else None,
            "max_num_seqs": self.max_num_seqs,
            "enable_prefix_caching": self.enable_prefix_caching,
            "kv_cache_dtype": self.kv_cache_dtype if self.kv_cache_dtype != "auto" else None,
        }
        return {name: value for name, value in found.items() if value is not None}

    def check_gpus(self, gpus: float) -> None:
        """Raises ValueError where an engine with this many GPUs cannot do what is asked."""
        if self.tensor_parallel > 1 and gpus != self.tensor_parallel:
            raise ValueError(
                f"tensor_parallel = {self.tensor_parallel} needs gpus = {self.tensor_parallel}, not {gpus:g}: an engine is "
                "spread over the GPUs of one machine, on a CPU over none"
            )
        if not gpus and self.kv_cache_dtype not in CPU_KV_CACHE_DTYPES:
            raise ValueError(
                f"kv_cache_dtype = {self.kv_cache_dtype!r} needs a GPU: vLLM's attention on CPUs takes "
                f"{', '.join(CPU_KV_CACHE_DTYPES)}"
            )


class EngineSettings(EngineOptions):
    """What makes an engine fast, of `serve` and `generate`. `raylm tune-serve MODEL` measures it on your own prompts."""

    enable_chunked_prefill: bool | None = None
    """Split long prompts over several steps, so that answers under way go on beside them; default: vLLM's own on a GPU, off on a
    CPU."""
    max_num_batched_tokens: int | None = Field(default=None, ge=1)
    """Most tokens that one step of the engine computes; without chunked prefill a prompt must fit. Default: vLLM's own."""
    kv_cache_gb: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Memory for keys and values, in GB of 2**30 bytes. Default: on a GPU what `memory_share` leaves, on a CPU 1."""
    compile: bool | None = None
    """Compile the model, and capture CUDA graphs on a GPU: a start takes minutes longer. Default: on a GPU only."""
    speculation: AnySpeculation | None = None
    """Propose several tokens at once and check them in one step. Greedy answers stay those of the model, sampled ones are drawn
    from its distribution, but no `seed` repeats them, and vLLM refuses min_p and logit_bias. It pays where the engine has time to
    spare: few requests at once, much of what is proposed taken."""
    hang_s: float = Field(default=60.0, gt=0, allow_inf_nan=False)
    """Seconds in which an engine that has something to do answers nothing and computes nothing, after which it counts as hung.
    One that computes, as it does on a long prompt, gets ten times as long."""

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of `build_engine` that are not its defaults."""
        found = {
            "enable_chunked_prefill": self.enable_chunked_prefill,
            "max_num_batched_tokens": self.max_num_batched_tokens,
            "kv_cache_memory_bytes": int(self.kv_cache_gb * 2**30) if self.kv_cache_gb else None,
            "enforce_eager": None if self.compile is None else not self.compile,
            "speculation": self.speculation,
        }
        return super().options | {name: value for name, value in found.items() if value is not None}

    def check_gpus(self, gpus: float) -> None:
        super().check_gpus(gpus)
        if not gpus and self.enable_chunked_prefill:
            raise ValueError(
                "enable_chunked_prefill = true needs a GPU: on a CPU vLLM ends its engine when a request with a seed has its "
                "prompt split over two steps"
            )

    def at(self, find: Callable[[str], str]) -> Self:
        """These settings with what `find` says in place of a stage's name: where the draft model lies. Ask it before they travel
        to an engine's machine."""
        return self.model_copy(update={"speculation": self.speculation and self.speculation.at(find)})


class GeneratorSpec(EngineOptions):
    """Processes that generate completions, each one vLLM engine. A generator is asked for twice as many completions at a time as
    it works on."""

    count: int = Field(default=1, ge=1)
    """Number of generators; completions do not depend on it."""
    cpus: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """CPU cores that each one reserves."""
    gpus: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """GPUs that each one reserves."""
    sleeps: bool = False
    """Give back what weights and cache take of a GPU while the trainer works there: for generators and ranks that share GPUs
    (`gpus = 0.5` of each). The next weights wake them. On a CPU nothing is given back."""
    hang_s: float = Field(default=600.0, gt=0, allow_inf_nan=False)
    """Seconds in which no request of a generator gets a token, or a part of the weights is not taken, after which it is ended
    and a fresh one goes on in its place."""
    ping_s: float = Field(default=60.0, gt=0, allow_inf_nan=False)
    """Seconds in which a generator's process must answer whether it lives; it gets no new work after a quarter of them. In `rl`
    also those of a reward worker's actor."""
    start_s: float = Field(default=3600.0, gt=0, allow_inf_nan=False)
    """Seconds that a generator may take to start: to get a place in the cluster, to fetch weights, load and compile them. Said
    every minute while it is waited for; an end of its process is known at once."""
    max_restarts: int = Field(default=3, ge=0)
    """Times that one generator is replaced before it has answered what was lost with it. After that the others go on without
    it; with none left the run ends."""
    quarantine_after: int | None = Field(default=3, ge=2)
    """Generators that one prompt may end: it is asked alone before the last of them, and where it ends that one too, at once, it
    is set aside and counted. Works where `max_restarts` is as large. None: such a prompt ends the run."""
    probe_nats: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Largest mean absolute difference between a generator's and the trainer's log-probabilities of a few prompts, asked after
    each transfer of weights; one that differs by more is ended. Default: 1e-3 in float32, 0.1 in 16 bits."""
    sync: AnySync = ObjectStore()
    """How new weights come to them from the trainer (rl)."""

    def engine(self, model: str, dtype: str = "auto") -> EngineUse:
        """What it asks a machine's kernels for with this checkpoint."""
        return EngineUse(model, dtype, self.kv_cache_dtype, self.gpus > 0)

    @model_validator(mode="after")
    def _check_gpus(self) -> GeneratorSpec:
        self.check_gpus(self.gpus)
        return self

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of vLLM's engine that are not its defaults."""
        # vLLM refuses it on a CPU, where sleeping gives back no memory
        return super().options | ({"enable_sleep_mode": True} if self.sleeps and self.gpus else {})

    @property
    def memory_share(self) -> float:
        """Part of a GPU's memory that one engine takes: of a GPU that it shares, its own part alone."""
        return MEMORY_SHARE * min(1.0, self.gpus or 1.0)

    def role(self, **changes: Any) -> Role:
        """What they ask a cluster for."""
        return Role(**{"count": self.count, "cpus": self.cpus, "gpus": self.gpus, **changes})


class BatchGenerators(GeneratorSpec, EngineSettings):
    """Generators that nobody trains: all that makes an engine fast is open to them."""

    @model_validator(mode="after")
    def _nobody_trains(self) -> BatchGenerators:
        if self.sleeps:
            raise ValueError("generator.sleeps lends memory to a trainer, and here is none: drop it")
        return self
