"""Two versions of a model behind one name: which of them a request goes to, and what is known of each.

gateway: Asked, candidates --allowed--> those of one version --routing card--> replica --counted--> Tally
                           --shadowed-> a replica of the new one that gets a copy; its answer is compared and dropped
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from raylm.serve.routing.routing import Asked, Candidate

_USER = re.compile(rb"(?:^|\n)user: ")
_ANSWER = re.compile(rb"\n(?:assistant|tool|function): ")


class Allowed(NamedTuple):
    """How bad a new version may be before it is stopped."""

    error_rate: float = 0.02
    """Part of its answers that may fail beyond what the old version fails."""
    disagree_rate: float = 1.0
    """Part of the greedy copies (shadow traffic) that it may answer otherwise than the old version; 1: any."""


class Rollout(NamedTuple):
    """What gateways do while a new version of one model stands beside the old one. Picklable: a part of the `View`."""

    model: str
    stable: str
    """Fingerprint of the version that clients had so far."""
    fresh: str
    """Fingerprint of the new one."""
    share: float = 0.0
    """Part of the conversations that go to the new version; 0: none, it is being proved. 1: all."""
    keys: tuple[str, ...] = ()
    """Names of keys whose requests all go to the new version; where there are any, other requests do not."""
    shadow: float = 0.0
    """Part of the requests of which the new version gets a copy."""
    number: str = ""
    """Of the update: gateways begin to count anew with another one."""
    allows: Allowed | None = None
    """A gateway that counted more than this gives the new version no further request; None where that is not looked at."""

    def held_back(self) -> Rollout:
        """The new version stands, and gets nothing."""
        return self._replace(share=0.0, keys=(), shadow=0.0)

    def allowed(self, asked: Asked, candidates: Sequence[Candidate], draw: float) -> list[Candidate]:
        """The candidates of the version that a request belongs to. Where none of that version is ready, those of the other one:
        unless that is the new one and gets no requests yet.

        Args:
            draw: 0 <= draw < 1, at random; of a conversation that is known it is not looked at, so that it stays with its
                version.
        """
        fresh = [each for each in candidates if self._is_fresh(each)]
        stable = [each for each in candidates if not self._is_fresh(each)]
        if not self.share and not self.keys:
            return stable
        first, other = (fresh, stable) if self.chosen(asked, draw) else (stable, fresh)
        return first or other

    def chosen(self, asked: Asked, draw: float) -> bool:
        """Whether a request belongs to the new version."""
        if asked.model != self.model:
            return False
        if self.keys:
            return asked.key in self.keys
        return place_of(self.fresh, asked, draw) < self.share

    def shadowed(self, asked: Asked, to: Candidate, candidates: Sequence[Candidate], draw: float) -> list[Candidate]:
        """Replicas of the new version one of which gets a copy of a request that goes to `to`; none for most requests."""
        if asked.model != self.model or self._is_fresh(to) or not draw < self.shadow:
            return []
        return [each for each in candidates if self._is_fresh(each)]

    def _is_fresh(self, candidate: Candidate) -> bool:
        return candidate.address.model == self.model and candidate.address.fingerprint == self.fresh


def place_of(version: str, asked: Asked, draw: float) -> float:
    """Where a conversation stands between 0 and 1: always the same place for the same one, another for each version; `draw` for
    a request that is part of none that could be known."""
    known = asked.session.encode() or opening_of(asked.prefix)
    if not known:
        return draw
    digest = hashlib.blake2b(b"\0".join((version.encode(), asked.key.encode(), known)), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def opening_of(prefix: bytes) -> bytes:
    """Messages up to the model's first answer, which all later requests of a conversation begin with too; b"" where there are no
    messages. `prefix` is as gateways write it: a line `role: content` for each."""
    user = _USER.search(prefix)
    if user is None:
        return b""
    answer = _ANSWER.search(prefix, user.end())
    return prefix[: answer.start()] if answer else prefix


class Counts(NamedTuple):
    """What a version answered."""

    answers: int = 0
    """Requests that it ended, well or not; a client that left, or asked for what nobody can do (4xx), is not counted."""
    failed: int = 0
    """5xx, broken streams, and silence; also where another replica then answered the client."""
    first_s: float = 0.0
    """Seconds to the first byte, summed over answers that did not fail."""
    seconds: float = 0.0

    def plus(self, other: Counts) -> Counts:
        return Counts(*_sums(self, other))


class Compared(NamedTuple):
    """Copies of requests that the new version answered for nobody."""

    sent: int = 0
    failed: int = 0
    compared: int = 0
    """Greedy requests that both versions answered."""
    agreed: int = 0
    """Of these, with the same text."""
    slower_s: float = 0.0
    """Seconds that the copies took longer than the answers, summed over those that did not fail."""
    left_out: int = 0
    """Copies that were not sent because too many were under way."""

    def plus(self, other: Compared) -> Compared:
        return Compared(*_sums(self, other))


def _sums(one: tuple[Any, ...], other: tuple[Any, ...]) -> list[Any]:
    return [mine + yours for mine, yours in zip(one, other, strict=True)]


class Tally:
    """What one gateway counted since the update `number` began, or since its start."""

    def __init__(self, number: str = "") -> None:
        self.number = number
        self._counts: dict[str, Counts] = {}
        self._compared: dict[str, Compared] = {}
        self.stop = ""
        """Why the new version must get no request any more."""

    def count(self, version: str, failed: bool, first_s: float = 0.0, seconds: float = 0.0) -> None:
        """One attempt of a replica with this fingerprint has ended."""
        one = Counts(1, 1) if failed else Counts(1, 0, first_s, seconds)
        self._counts[version] = self._counts.get(version, Counts()).plus(one)

    def compare(self, version: str, one: Compared) -> None:
        """One copy has been answered, or not."""
        self._compared[version] = self._compared.get(version, Compared()).plus(one)

    def told(self) -> Told:
        """All of it, for Control."""
        return Told(dict(self._counts), dict(self._compared), self.number, self.stop)


class Told(NamedTuple):
    """What gateways counted of each version."""

    counts: dict[str, Counts] = {}
    compared: dict[str, Compared] = {}
    number: str = ""
    stop: str = ""
    """Why a gateway gives the new version no request any more; "" where it does."""


def together(told: Iterable[Told]) -> Told:
    """Sums over gateways."""
    counts: dict[str, Counts] = {}
    compared: dict[str, Compared] = {}
    stop = ""
    for each in told:
        stop = stop or each.stop
        for version, one in each.counts.items():
            counts[version] = counts.get(version, Counts()).plus(one)
        for version, copy in each.compared.items():
            compared[version] = compared.get(version, Compared()).plus(copy)
    return Told(counts, compared, stop=stop)
