"""What a gateway is told at its start. No secret: of the key, and of what the stage's own requests carry, only digests."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from raylm.serve.audit import Audit
from raylm.serve.config import GatewaySpec, Limits
from raylm.serve.directory import View
from raylm.serve.guards.guard import Admission, Visit
from raylm.serve.updates.rollout import Told

STAGE = "x-raylm-stage"
"""Header of the serve stage's own requests, which no guard counts: what compares the endpoint with transformers is no client."""


class ModelFacts(NamedTuple):
    """A model behind the door, also while it has no replica."""

    name: str
    deployment: str
    """Of its replicas, in Serve."""
    fingerprint: str = ""
    dtype: str = ""
    max_len: int = 0
    least: int = 1
    """Replicas that always stand; 0: it may sleep."""
    most_ongoing: int = 256
    """Requests that one replica takes at once."""
    routes: tuple[str, ...] = ()
    """Paths that it answers; empty: all."""
    routing: Any = None
    """Card that chooses one; None for the default."""
    lineage: dict[str, Any] = {}
    created: int = 0


class Holder(NamedTuple):
    """Whose endpoint a gateway belongs to."""

    uri: str = ""
    """Of the endpoint's folder."""
    run: str = ""
    """Ray's id of the run that serves it: a later stage of it may take the place of an earlier one."""
    by: str = ""
    """User and machine."""
    since: str = ""

    def is_one_with(self, other: Holder) -> bool:
        """Whether one may take the other's place: it is the same endpoint, or of the same run."""
        return bool((self.uri and self.uri == other.uri) or (self.run and self.run == other.run))


class GatewaySettings(NamedTuple):
    """One gateway of an endpoint."""

    host: str
    port: int
    models: tuple[ModelFacts, ...]
    spec: GatewaySpec = GatewaySpec()
    limits: Limits = Limits()
    key_digest: str | None = None
    """None: no key is asked."""
    keys_uri: str = ""
    """Of the file with further keys, see `KeyFile`."""
    stage_digest: str = ""
    guards: tuple[Any, ...] = ()
    """Cards, asked in this order."""
    guards_at_control: bool = False
    """There are several gateways: Control counts for all."""
    counted_uri: str = ""
    """Of the file with what guards counted."""
    audit: Audit | None = None
    audit_folder: str = ""
    num_gateways: int = 1
    name: str = "gateway"
    application: str = "raylm"
    """Of Serve, in which Control and the models are deployed."""
    holder: Holder = Holder()


class Steering(Protocol):
    """What a gateway asks of the rest of the endpoint: Control and Serve, or a test."""

    async def changes(self, version: int, timeout_s: float, gateway: str, held: dict[str, int]) -> View | None:
        """The table once it is newer than `version`, or after `timeout_s`. Raises ConnectionError while nobody is there."""
        ...

    async def admit(self, visit: Visit) -> Admission:
        """What the guards at Control say."""
        ...

    async def finish(self, visit: Visit, tokens: int) -> None:
        """An admitted request has ended."""
        ...

    async def tally(self, gateway: str, told: Told) -> None:
        """What this gateway counted of the versions of an update."""
        ...

    async def wake(self, model: ModelFacts) -> None:
        """Somebody asks for a model that has no replica. Returns when one has started."""
        ...
