"""What a stage may say of its generators."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from raylm.core.config import Config, Role
from raylm.inference.sync import AnySync
from raylm.inference.sync.object_store import ObjectStore

MEMORY_SHARE = 0.85
"""Part of a whole GPU's memory that an engine's weights and cache take."""


class GeneratorSpec(Config):
    """Processes that generate completions, each one vLLM engine."""

    count: int = Field(default=1, ge=1)
    """Number of generators; completions do not depend on it."""
    cpus: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """CPU cores that each one reserves."""
    gpus: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """GPUs that each one reserves."""
    sleeps: bool = False
    """Give back what weights and cache take of a GPU while the trainer works there: for generators and ranks that share GPUs
    (`gpus = 0.5` of each). The next weights wake them. On a CPU nothing is given back."""
    tensor_parallel: int = Field(default=1, ge=1)
    """GPUs that one engine's weights are spread over; they stand in `gpus`."""
    max_num_seqs: int | None = Field(default=None, ge=1)
    """Most sequences that an engine works on at once; default: vLLM's own, 256 on a CPU. A generator is asked for twice as many
    completions at a time, the others wait in the pool."""
    enable_prefix_caching: bool | None = None
    """Keep what was computed of prompts that begin alike, until new weights come; default: vLLM's own."""
    kv_cache_dtype: Literal["auto", "fp8"] = "auto"
    """Format of keys and values in the cache. fp8 takes half the memory of 16 bits, and draws slightly otherwise than the trainer
    computes."""
    hang_s: float = Field(default=600.0, gt=0, allow_inf_nan=False)
    """Seconds in which no request of a generator gets a token, or a part of the weights is not taken, after which it is ended
    and a fresh one goes on in its place."""
    ping_s: float = Field(default=60.0, gt=0, allow_inf_nan=False)
    """Seconds in which a generator's process must answer whether it lives; it gets no new work after a quarter of them."""
    start_s: float = Field(default=3600.0, gt=0, allow_inf_nan=False)
    """Seconds that a generator may take to start: to get a place in the cluster, to fetch weights, load and compile them. Said
    every minute while it is waited for; an end of its process is known at once."""
    max_restarts: int = Field(default=3, ge=0)
    """Times that one generator is replaced before it has answered what was lost with it. After that the others go on without
    it; with none left the run ends."""
    probe_nats: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Largest mean absolute difference between a generator's and the trainer's log-probabilities of a few prompts, asked after
    each transfer of weights; one that differs by more is ended. Default: 1e-3 in float32, 0.1 in 16 bits."""
    sync: AnySync = ObjectStore()
    """How new weights come to them from the trainer (rl)."""

    @model_validator(mode="after")
    def _check_parallel(self) -> GeneratorSpec:
        if self.tensor_parallel > 1 and self.gpus != self.tensor_parallel:
            raise ValueError(
                f"tensor_parallel = {self.tensor_parallel} needs gpus = {self.tensor_parallel}, not {self.gpus:g}: an engine is "
                "spread over the GPUs of one machine, on a CPU over none"
            )
        return self

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of vLLM's engine that are not its defaults."""
        found = {
            "tensor_parallel_size": self.tensor_parallel if self.tensor_parallel > 1 else None,
            "max_num_seqs": self.max_num_seqs,
            "enable_prefix_caching": self.enable_prefix_caching,
            "kv_cache_dtype": self.kv_cache_dtype if self.kv_cache_dtype != "auto" else None,
            # vLLM refuses it on a CPU, where sleeping gives back no memory
            "enable_sleep_mode": True if self.sleeps and self.gpus else None,
        }
        return {name: value for name, value in found.items() if value is not None}

    @property
    def memory_share(self) -> float:
        """Part of a GPU's memory that one engine takes: of a GPU that it shares, its own part alone."""
        return MEMORY_SHARE * min(1.0, self.gpus or 1.0)

    def role(self, **changes: Any) -> Role:
        """What they ask a cluster for."""
        return Role(**{"count": self.count, "cpus": self.cpus, "gpus": self.gpus, **changes})
