"""What a stage may say of its generators."""

from __future__ import annotations

from typing import Any

from pydantic import Field

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

    @property
    def memory_share(self) -> float:
        """Part of a GPU's memory that one engine takes: of a GPU that it shares, its own part alone."""
        return MEMORY_SHARE * min(1.0, self.gpus or 1.0)

    def role(self, **changes: Any) -> Role:
        """What they ask a cluster for."""
        return Role(**{"count": self.count, "cpus": self.cpus, "gpus": self.gpus, **changes})
