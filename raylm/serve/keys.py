"""API keys of an endpoint: several, named, each for all models or some, added and revoked while it serves.

`raylm keys add ENDPOINT alice` --> {job}/.keys/{stage}.json (SHA-256 of each key) <-- read again by every replica, at most once
                                                                                      a second

The file outlives the endpoint's folder: an endpoint that is made anew knows the same keys. The key of the run itself, in the file
`key` beside the manifest or in RAYLM_API_KEY, is none of these.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import hashlib
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from raylm.core.artifact import Endpoint, open_artifact
from raylm.core.config import did_you_mean
from raylm.core.errors import ArtifactError, ConfigError, StorageError
from raylm.core.storage import Folder

KEYS = ".keys"
OWNER = "owner"
"""Name of the run's own key."""
PREFIX = "sk-"
LOOK_S = 1.0
"""Seconds for which what was read is believed: a revoked key is refused that much later."""
ANSWER_S = 2.0
"""Seconds for which a request waits for the file."""


def key_digest(key: str) -> str:
    """SHA-256 of the key. Keys are random and long, so a plain digest cannot be searched back."""
    return hashlib.sha256(key.encode()).hexdigest()


class KeyRecord(NamedTuple):
    """What is known of a key; not the key."""

    name: str
    digest: str
    created: str = ""
    models: tuple[str, ...] = ()
    """Model names that it may ask; all where it is empty."""
    expires: str = ""
    """When it stops to be valid (ISO 8601, UTC); never where it is empty."""
    revoked: str = ""
    """When it was revoked."""

    def valid(self, now: datetime) -> bool:
        """Whether it lets anybody in at `now`."""
        return not self.revoked and (not self.expires or now < datetime.fromisoformat(self.expires))


ANYBODY = KeyRecord("", "")
"""Who comes in where no key is asked."""


class KeyFile(NamedTuple):
    """Where the keys of an endpoint lie."""

    folder: Folder
    name: str

    @classmethod
    def of(cls, endpoint: Folder) -> KeyFile:
        """Those of the endpoint in `endpoint`."""
        job, _, stage = endpoint.uri.rstrip("/").rpartition("/")
        return cls(Folder(job) / KEYS, f"{stage}.json")

    @classmethod
    def at(cls, uri: str) -> KeyFile:
        """The file of `uri`."""
        folder, _, name = uri.rpartition("/")
        return cls(Folder(folder), name)

    @property
    def uri(self) -> str:
        return self.folder.path(self.name)

    def read(self) -> list[KeyRecord]:
        """All keys, the revoked ones too. Raises ArtifactError where the file is not whole."""
        if not self.folder.exists(self.name):
            return []
        try:
            return [KeyRecord(**{**each, "models": tuple(each["models"])}) for each in self.folder.read_json(self.name)["keys"]]
        except (ValueError, KeyError, TypeError) as cause:
            raise ArtifactError(
                "these keys cannot be read", where=self.uri, next="raylm keys writes it; edit it by no hand"
            ) from cause

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else of this machine changes the file meanwhile: what is written back would undo it. Buckets have no locks."""
        if not self.folder.is_local:
            yield
            return
        with open(self.folder.make().path(f".{self.name}.lock"), "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def write(self, keys: Sequence[KeyRecord]) -> None:
        """Replace the file."""
        self.folder.make().write_json(self.name, {"keys": [{**key._asdict(), "models": list(key.models)} for key in keys]})


@dataclass
class KeyRing:
    """The keys that a door knows.

    Args:
        owner: digest of the run's own key; None where there is none.
        uri: of the file with the others; "" where there are no others.
    """

    owner: str | None
    uri: str = ""

    def __post_init__(self) -> None:
        self._keys: dict[str, KeyRecord] = {self.owner: KeyRecord(OWNER, self.owner)} if self.owner else {}
        self._looked = -LOOK_S
        self._looking: asyncio.Future[None] | None = None

    async def find(self, digest: str) -> KeyRecord | None:
        """The valid key of a digest."""
        if self.uri and time.monotonic() - self._looked >= LOOK_S:
            await self._renewed()
        found = self._keys.get(digest)
        return found if found and found.valid(datetime.now(UTC)) else None

    async def _renewed(self) -> None:
        """Read the file again; one that does not answer in time costs a moment, and not the endpoint."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.ensure_future(asyncio.to_thread(self._look))
        done, _ = await asyncio.wait({self._looking}, timeout=ANSWER_S)
        if not done:
            self._looked = time.monotonic()
        for each in done:
            each.result()

    def _look(self) -> None:
        try:
            keys = KeyFile.at(self.uri).read()
        except (StorageError, ArtifactError, OSError):
            # nobody is let in or shut out because a disk does not answer
            self._looked = time.monotonic()
            return
        mine = {self.owner: KeyRecord(OWNER, self.owner)} if self.owner else {}
        self._keys = {**{key.digest: key for key in keys}, **mine}
        self._looked = time.monotonic()


def run(arguments: argparse.Namespace) -> int:
    """`raylm keys add | list | revoke`."""
    endpoint = open_artifact(Folder(arguments.endpoint))
    if not isinstance(endpoint, Endpoint):
        raise ArtifactError(
            f"an Endpoint has keys, this is a {endpoint.kind}", where=endpoint.uri, next="name a serve stage's folder"
        )
    if not endpoint.facts.get("asks_key", True):
        raise ConfigError(
            "this endpoint asks for no key (insecure = true)", where=endpoint.uri, next="serve it without `insecure`"
        )
    file = KeyFile.of(endpoint.folder)
    return {"add": _add, "list": _list, "revoke": _revoke}[arguments.action](file, arguments)


def add(file: KeyFile, name: str, models: Sequence[str] = (), days: float | None = None) -> str:
    """A new key, which nothing keeps: it is shown once.

    Raises:
        ConfigError: a valid key has this name.
    """
    if days is not None and not 0 < days < 100_000:
        raise ConfigError(f"a key is valid for some days, not for {days:g}", next="--days 30; without it a key never expires")
    with file.alone():
        return _added(file, name, models, days)


def _added(file: KeyFile, name: str, models: Sequence[str], days: float | None) -> str:
    keys, now = file.read(), datetime.now(UTC)
    if not name or name == OWNER or any(key.name == name and key.valid(now) for key in keys):
        raise ConfigError(f"a key is called {name!r} already", where=file.uri, next="take another name, or revoke that one first")
    value = PREFIX + secrets.token_urlsafe(32)
    ends = datetime.fromtimestamp(now.timestamp() + days * 86400, UTC).isoformat(timespec="seconds") if days else ""
    file.write([*keys, KeyRecord(name, key_digest(value), now.isoformat(timespec="seconds"), tuple(models), ends)])
    return value


def revoke(file: KeyFile, name: str) -> None:
    """From now on the key `name` lets nobody in. Raises ConfigError where there is no such key."""
    with file.alone():
        _revoked(file, name)


def _revoked(file: KeyFile, name: str) -> None:
    keys, now = file.read(), datetime.now(UTC)
    if not any(key.name == name and not key.revoked for key in keys):
        known = [key.name for key in keys if not key.revoked]
        raise ConfigError(f"there is no key {name!r}.{did_you_mean(name, known)}", where=file.uri)
    file.write(
        [key._replace(revoked=now.isoformat(timespec="seconds")) if key.name == name and not key.revoked else key for key in keys]
    )


def _add(file: KeyFile, arguments: argparse.Namespace) -> int:
    value = add(file, arguments.name, arguments.model, arguments.days)
    print(f"{value}\nkept nowhere: copy it now. It is valid within {LOOK_S:g} s, without a restart.")
    print(f"next: raylm chat {arguments.endpoint} --key ...")
    return 0


def _list(file: KeyFile, arguments: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table

    keys, now = file.read(), datetime.now(UTC)
    table = Table("name", "models", "made", "until", "state", box=None)
    for key in keys:
        state = "valid" if key.valid(now) else f"revoked {key.revoked}" if key.revoked else "expired"
        table.add_row(key.name, ", ".join(key.models) or "all", key.created, key.expires or "-", state)
    Console().print(table) if keys else print("only the run's own key")
    print(f"next: raylm keys add {arguments.endpoint} NAME")
    return 0


def _revoke(file: KeyFile, arguments: argparse.Namespace) -> int:
    revoke(file, arguments.name)
    print(f"revoked: {arguments.name}; the endpoint refuses it within {LOOK_S:g} s\nnext: raylm keys list {arguments.endpoint}")
    return 0
