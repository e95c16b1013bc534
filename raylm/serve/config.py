"""Config of the `serve` stage."""

from __future__ import annotations

import ipaddress
from typing import Literal

from pydantic import Field, model_validator

from raylm.core.config import ENDPOINT, Config, EngineUse, Makes, Refers, Role, StageConfig
from raylm.serve.audit import Audit
from raylm.serve.guards import AnyGuard
from raylm.serve.served_model import PLACEMENT, VARIANTS, ServedModel


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
    num_inputs: int = Field(default=2048, ge=1)
    """Texts in one request for vectors or scores."""
    num_logprobs: int = Field(default=20, ge=0)
    """Log-probabilities for each token."""
    num_stops: int = Field(default=64, ge=1)
    """Stop texts, stop tokens or forbidden words."""


class GatewaySpec(Config):
    """The processes that clients reach."""

    nodes: Literal["head", "every"] = "head"
    """Listen on the machine that runs the job, or on every machine of the cluster (a load balancer stands before them)."""
    cors: list[str] = []
    """Origins whose pages may ask (`https://chat.example.org`); none unless they are named."""
    most_held: int = Field(default=1000, ge=0)
    """Requests that wait at once because all replicas are busy, or none stands; more are told to come again."""
    hold_s: float = Field(default=60.0, ge=0)
    """Seconds that such a request waits at most; a start from zero replicas takes its time out of them."""
    retries: int = Field(default=2, ge=0)
    """Times that a request of which nothing was answered yet is given to another replica when one fails."""
    first_byte_s: float = Field(default=600.0, gt=0)
    """Seconds until a replica must begin to answer."""
    silence_s: float = Field(default=120.0, gt=0)
    """Seconds that a stream may be silent."""
    longest_s: float = Field(default=3600.0, gt=0)
    """Seconds that a stream may take in all."""
    drain_s: float = Field(default=30.0, ge=0)
    """Seconds that what is under way gets when the endpoint is stopped."""


class Serve(ServedModel, StageConfig):
    """Checkpoints behind an OpenAI-compatible, keyed, autoscaled HTTP endpoint. The first model's keys stand in the stage's own
    table, those of further ones in `more`."""

    placement = PLACEMENT | {"host", "port", "gateway", "limits", "guards", "audit", "prompts", "answer_tokens", "start_s"}
    spot = False
    figures = ("url", "greedy_equal", "template_equal", "start_s")

    stage: Literal["serve"] = "serve"
    """The verb."""
    more: list[ServedModel] = []
    """Further models behind the same door."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 listens on all."""
    port: int = Field(default=8000, ge=1, le=65535)
    """Port to listen on."""
    gateway: GatewaySpec = GatewaySpec()
    """The processes that clients reach."""
    limits: Limits = Limits()
    """Most that one request may ask for."""
    guards: list[AnyGuard] = []
    """What a request with a valid key must pass too, in this order; limits hold for the endpoint, not for each engine."""
    audit: Audit | None = None
    """Write who asked for what, with how many tokens and seconds, to `.audit/` beside the endpoint's folder."""
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

    @model_validator(mode="after")
    def _names_differ(self) -> Serve:
        names = [name for served in self.models for name in served.names]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two models are called {twice!r}: give one of them another model_name")
        return self

    @property
    def models(self) -> tuple[ServedModel, ...]:
        """All models behind the door, the stage's own first."""
        return (self, *self.more)

    def makes(self) -> Makes:
        return ENDPOINT

    def narrowed(self) -> dict[str, Refers]:
        # a reward model draws no tokens, a language model gives no scores; of `more` the stage says it when it starts
        return {"model": Refers((), VARIANTS[self.task])}

    def roles(self) -> dict[str, Role]:
        further = {f"replicas_{served.model_name}": served.replica_role() for served in self.more}
        return {"replicas": self.replica_role(), **further}

    def engines(self) -> list[EngineUse]:
        return [EngineUse(each.model, each.dtype, each.engine.kv_cache_dtype, each.workers.gpus > 0) for each in self.models]


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
