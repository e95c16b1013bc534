"""Jobs of a running cluster, by Ray's job API: submit one and follow it to its exit status, list them, stop one."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from raylm.cluster.watch import Machine, machines_at
from raylm.core.errors import ConfigError, PlacementError

DONE = ("SUCCEEDED", "FAILED", "STOPPED")
PENDING_SAY_S = 20.0
BROKEN_S = 300.0
"""Seconds for which a cluster that does not answer is asked again while a job is followed."""
AGAIN_S = 3.0


class Entry(NamedTuple):
    """A job as it is submitted."""

    name: str
    """Of its submission: unique on the cluster."""
    entrypoint: str
    runtime_env: dict[str, Any]
    metadata: dict[str, str]


class Cluster:
    """The job API of a cluster.

    Args:
        address: of the dashboard, `http://head:8265`.
        token_path: of the file with Ray's token; None where the cluster asks for none, or `RAY_AUTH_TOKEN` has it.

    Raises:
        ConfigError: no such cluster, or it does not take the token.
    """

    def __init__(self, address: str, token_path: Path | None = None) -> None:
        import logging

        if token_path:
            os.environ.update({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token_path)})
        self.address, self._printed = address.rstrip("/"), 0
        if not self.address.startswith(("http://", "https://")):
            raise ConfigError("the address of a cluster's dashboard is needed", where=address, next="--address http://HEAD:8265")
        from ray.job_submission import JobSubmissionClient

        # what it tells of its websocket is nothing that a person waits for
        logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.ERROR)
        with _said(self.address), _elsewhere():
            self._client = JobSubmissionClient(self.address)

    def submit(self, entry: Entry) -> str:
        """Hand the job over; returns the name of its submission."""
        with _said(self.address):
            return self._client.submit_job(
                entrypoint=entry.entrypoint,
                submission_id=entry.name,
                runtime_env=entry.runtime_env,
                metadata=entry.metadata,
            )

    def info(self, name: str) -> Any:
        """What the cluster knows of a submission: `status`, `message`, `driver_exit_code`, `metadata`, ..."""
        with _said(self.address):
            return self._client.get_job_info(name)

    def list(self) -> list[Any]:
        """All submissions, the newest first."""
        with _said(self.address):
            found = [job for job in self._client.list_jobs() if job.submission_id]
        return sorted(found, key=lambda job: job.start_time or 0, reverse=True)

    def stop(self, name: str) -> bool:
        """Ask a submission to stop, which its driver is told by SIGTERM; whether it was still under way."""
        with _said(self.address):
            return self._client.stop_job(name)

    def version(self) -> str:
        """Version of the cluster's Ray."""
        with _said(self.address):
            return str(_get(f"{self.address}/api/version")["ray_version"])

    def nodes(self) -> list[Any]:
        """Machines that are alive, with their address and what they have (`resources_total`)."""
        from ray.util.state import list_nodes

        with _said(self.address), _elsewhere():
            found = list_nodes(address=self.address, filters=[("state", "=", "ALIVE")], detail=True, limit=10_000)
        return list(found)

    def machines(self) -> list[Machine] | None:
        """Machines of the cluster, dead ones too; None where it does not answer."""
        return machines_at(self.address, token_value())

    def follow(self, name: str) -> int:
        """Print a job's output until it has ended, over broken connections; returns its exit status, 130 where it was stopped.

        Raises:
            PlacementError: the cluster has not answered for `BROKEN_S`.
        """
        self._printed, broken = 0, 0.0
        while True:
            try:
                self._wait_for_start(name)
                asyncio.run(self._tail(name))
                status = str(self.info(name).status)
                broken = 0.0
                if status in DONE:
                    return self._ended(name)
            except (OSError, RuntimeError, ConfigError, *_broken()) as cause:
                broken = broken or time.monotonic()
                if time.monotonic() - broken > BROKEN_S:
                    raise PlacementError(
                        f"the cluster has not answered for {BROKEN_S:.0f} s",
                        where=self.address,
                        next=f"raylm jobs --address {self.address}; the same `raylm submit` again follows or continues it",
                    ) from cause
            time.sleep(AGAIN_S)

    def _wait_for_start(self, name: str) -> None:
        said = time.monotonic()
        while str(self.info(name).status) == "PENDING":
            if time.monotonic() - said > PENDING_SAY_S:
                said = time.monotonic()
                print(f"  {name} has not started: {self.info(name).message}", file=sys.stderr, flush=True)
            time.sleep(0.5)

    async def _tail(self, name: str) -> None:
        """Print what is new; the log comes from its beginning each time, also after a connection that broke in the middle."""
        skip = self._printed
        async for part in self._client.tail_job_logs(name):
            fresh = part[skip:]
            skip = max(0, skip - len(part))
            self._printed += len(fresh)
            print(fresh, end="", flush=True)

    def _ended(self, name: str) -> int:
        found = self.info(name)
        status = str(found.status)
        if status == "SUCCEEDED":
            return 0
        print(f"{name}: {status.lower()}. {(found.message or '').splitlines()[0] if found.message else ''}", file=sys.stderr)
        return 130 if status == "STOPPED" else found.driver_exit_code or 1


def token_of(variables: Mapping[str, str]) -> Path | None:
    """The file with the token of the clusters that this user submits to: what Ray itself reads, where there is one."""
    if given := variables.get("RAY_AUTH_TOKEN_PATH"):
        return Path(given)
    usual = Path.home() / ".ray" / "auth_token"
    return usual if usual.is_file() and "RAY_AUTH_TOKEN" not in variables else None


def token_value() -> str:
    """The token itself; "" where there is none."""
    file = token_of(os.environ)
    return os.environ.get("RAY_AUTH_TOKEN") or (file.read_text().strip() if file else "")


def _get(url: str) -> dict[str, Any]:
    """A page of the dashboard's, as JSON."""
    import json
    import urllib.request

    token = token_value()
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    with urllib.request.urlopen(request, timeout=30) as reply:
        return json.load(reply)


@contextmanager
def _elsewhere() -> Iterator[None]:
    """Without the variables by which Ray would ask another cluster than the one that was named."""
    kept = {name: os.environ.pop(name) for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS") if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


@contextmanager
def _said(address: str) -> Iterator[None]:
    """Failures of the job API in words."""
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as cause:
        raise ConfigError(
            "the cluster does not take this token", where=address, next="RAY_AUTH_TOKEN_PATH=... (its file, mode 0600)"
        ) from cause
    except (OSError, *_broken()) as cause:
        raise ConfigError(
            f"no cluster answers: {_last(cause)}", where=address, next="ray status on its head; --address"
        ) from cause
    except (RuntimeError, ValueError) as cause:
        raise ConfigError(f"the cluster refuses: {_last(cause)}", where=address) from cause


def _last(cause: BaseException) -> str:
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(cause).__name__


def _broken() -> tuple[type[BaseException], ...]:
    """What the libraries under the job API raise for a connection that is none."""
    found: list[type[BaseException]] = []
    with suppress(ImportError):
        import requests

        found.append(requests.exceptions.RequestException)
    with suppress(ImportError):
        import aiohttp

        found.append(aiohttp.ClientError)
    with suppress(ImportError):
        from ray.util.state.exception import ServerUnavailable

        found.append(ServerUnavailable)
    return tuple(found)
