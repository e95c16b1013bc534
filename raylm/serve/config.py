"""Config of the `serve` stage."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal

from pydantic import Field, model_validator

from raylm.core.config import ENDPOINT, Config, Makes, Refers, ReportRef, Role, StageConfig
from raylm.core.variants import GENERATES
from raylm.serve.audit import Audit
from raylm.serve.guards import AnyGuard


class Replicas(Config):
    """How many engines answer, and when there are more or fewer."""

    min: int = Field(default=1, ge=0)
    """Engines that stay even when nobody asks; 0 lets an idle endpoint go, and the next request waits for a start."""
    max: int = Field(default=1, ge=1)
    """Most engines."""
    target_ongoing: float = Field(default=16, gt=0)
    """Requests under way per engine that scaling aims at."""
    most_ongoing: int = Field(default=256, ge=1)
    """Requests that one engine takes at once; more wait in the proxy."""
    upscale_delay_s: float = Field(default=10, ge=0)
    """Seconds that a higher load must last before an engine is added."""
    downscale_delay_s: float = Field(default=300, ge=0)
    """Seconds that a lower load must last before an engine is removed."""

    @model_validator(mode="after")
    def _ordered(self) -> Replicas:
        if self.min > self.max:
            raise ValueError(f"min = {self.min} is above max = {self.max}")
        return self


class Limits(Config):
    """Most that one request may ask for. More is refused (413 or 400), so that one client cannot take the endpoint from all."""

    body_bytes: int = Field(default=4_000_000, ge=1000)
    """Bytes of a request's body."""
    tokenize_bytes: int = Field(default=1_000_000, ge=1000)
    """Bytes of a body for /tokenize and /detokenize, which no context length bounds."""
    json_depth: int = Field(default=64, ge=8)
    """Levels of nesting in a body."""
    schema_bytes: int = Field(default=64_000, ge=100)
    """Bytes of a JSON schema, grammar, regular expression or list of choices."""
    schema_parts: int = Field(default=400, ge=1, le=450)
    """Properties and alternatives of a JSON schema together; four plain choices count as one."""
    num_choices: int = Field(default=16, ge=1)
    """Answers to one prompt (`n`)."""
    num_prompts: int = Field(default=128, ge=1)
    """Prompts in one request of /v1/completions."""
    num_logprobs: int = Field(default=20, ge=0)
    """Log-probabilities for each token."""
    num_stops: int = Field(default=64, ge=1)
    """Stop texts, stop tokens or forbidden words."""


class Serve(StageConfig):
    """A checkpoint behind an OpenAI-compatible, keyed, autoscaled HTTP endpoint."""

    placement = frozenset(
        {
            "workers",
            "host",
            "port",
            "replicas",
            "limits",
            "guards",
            "audit",
            "prompts",
            "answer_tokens",
            "memory_share",
            "start_s",
        }
    )
    figures = ("url", "greedy_equal", "template_equal", "start_s")

    stage: Literal["serve"] = "serve"
    """The verb."""
    model: Annotated[str, Refers(("Checkpoint",), GENERATES)]
    """Stage that makes the checkpoint, or a folder, URI or hub name of Hugging Face's layout."""
    requires: ReportRef | None = None
    """Report whose gate must have passed, or nothing is served."""
    model_name: str = "raylm"
    """Name that clients send as `model`."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 listens on all."""
    port: int = Field(default=8000, ge=1, le=65535)
    """Port to listen on."""
    replicas: Replicas = Replicas()
    """Number of engines and autoscaling."""
    limits: Limits = Limits()
    """Most that one request may ask for."""
    guards: list[AnyGuard] = []
    """What a request with a valid key must pass too, in this order; limits hold for the endpoint, not for each engine."""
    audit: Audit | None = None
    """Write who asked for what, with how many tokens and seconds, to `.audit/` beside the endpoint's folder."""
    max_len: int | None = Field(default=None, ge=2)
    """Most tokens of prompt and answer together; default: what the checkpoint was made for."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """What the engine computes in; auto keeps the checkpoint's format where the replica's machine has kernels for it."""
    memory_share: float = Field(default=0.85, gt=0, le=1)
    """Part of a GPU's memory that weights and cache take."""
    insecure: bool = False
    """Ask for no key. Allowed on loopback only."""
    compare_up_to_gb: float = Field(default=4.0, ge=0)
    """Greedy tokens are compared with transformers' unless the weights are larger than this; 0 never compares."""
    prompts: list[str] = []
    """Questions that are asked, and whose answers are printed, once the endpoint stands."""
    answer_tokens: int = Field(default=48, ge=1)
    """Most tokens of each of those answers."""
    start_s: float = Field(default=600, gt=0)
    """Seconds that the endpoint may take until it is ready."""

    @model_validator(mode="after")
    def _no_open_door(self) -> Serve:
        if self.insecure and not is_loopback(self.host):
            raise ValueError(f"insecure = true on host {self.host!r} would let everybody in; use 127.0.0.1, or a key")
        return self

    def makes(self) -> Makes:
        return ENDPOINT

    def roles(self) -> dict[str, Role]:
        return {"replicas": self.workers.role(count=self.replicas.max, least=self.replicas.min or 1)}


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
