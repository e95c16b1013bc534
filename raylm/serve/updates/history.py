"""Versions of an endpoint's models, and what is under way: files beside the endpoint, as its keys are.

{job}/.rollouts/{stage}.json          every version of each model: what, when, by whom, why it ended   (Control writes)
              /{stage}.asked.json     what `raylm update` and `raylm rollback` ask for                 (the command writes)
              /{stage}.state.json     what became of it so far                                         (Control writes)

Whoever may write there may update the endpoint. They outlive the endpoint's folder: one that is made anew has the same history.
"""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple, TypeVar

from pydantic import ValidationError

from raylm.core.artifact import Record
from raylm.core.config import did_you_mean
from raylm.core.errors import ArtifactError, ConfigError, PlanError
from raylm.core.storage import Folder

ROLLOUTS = ".rollouts"
How = Literal["start", "in_place", "rolling"]
Phase = Literal["swapping", "canary", "promoting", "done", "stopped"]
OVER: tuple[Phase, ...] = ("done", "stopped")
Read = TypeVar("Read", bound=Record)


class Version(Record):
    """Weights that a model answered with for some time."""

    model: str
    fingerprint: str
    uri: str
    how: How
    began: str
    by: str
    content: str = ""
    """Digest of its payload files: a rollback brings back exactly these."""
    report: str = ""
    """Of the gate that it passed; "" where none was asked."""
    lineage: dict[str, Any] = {}
    """What /v1/models says of it."""
    ended: str = ""
    why: str = ""
    """Why it ended."""
    figures: dict[str, Any] = {}
    """Measured when it came: stall, differences of log-probabilities."""


class Probed(Record):
    """A sequence of tokens and their log-probabilities from the second one on."""

    tokens: list[int]
    logprobs: list[float]


class Turn(Record):
    """A text, what transformers makes a prompt of it, and what follows greedily."""

    text: str
    prompt: list[int]
    greedy: list[int] = []
    likely: list[dict[int, float]] = []


class Proof(Record):
    """What a checkpoint says by transformers: what an engine that holds it must say too, before clients get it."""

    dtype: str
    quantized: bool
    ends: list[int]
    """Tokens that end an answer."""
    logprobs: bool = True
    """Whether the endpoint tells log-probabilities."""
    probes: list[Probed] = []
    turns: list[Turn] = []
    why_not: str = ""
    """Why there are no probes."""


class Ask(Record):
    """An update, or a rollback, as somebody asked for it."""

    number: str
    """When it was asked; another one is another update."""
    by: str
    model: str
    uri: str
    fingerprint: str
    how: How
    content: str = ""
    report: str = ""
    lineage: dict[str, Any] = {}
    share: float = 0.0
    keys: list[str] = []
    for_s: float = 0.0
    """Seconds that the canary and the shadow take."""
    shadow: float = 0.0
    error_rate: float = 0.02
    disagree_rate: float = 1.0
    start_s: float = 600.0
    proof: Proof | None = None
    why: str = ""
    """Said of the version that ends with it."""
    stop: bool = False
    """Give up what is under way instead."""


class Progress(Record):
    """What became of an ask."""

    number: str
    model: str
    fingerprint: str
    before: str
    """Fingerprint of the version that clients had when it began."""
    phase: Phase
    since: str
    said: list[str] = []
    """What happened, in words, the newest last."""
    figures: dict[str, Any] = {}

    @property
    def over(self) -> bool:
        return self.phase in OVER


class Versions(NamedTuple):
    """The files of one endpoint."""

    folder: Folder
    stage: str

    @classmethod
    def of(cls, endpoint: Folder) -> Versions:
        """Those of the endpoint in `endpoint`."""
        job, _, stage = endpoint.uri.rstrip("/").rpartition("/")
        return cls(Folder(job) / ROLLOUTS, stage)

    @classmethod
    def at(cls, uri: str) -> Versions:
        """Those whose history lies in `uri`."""
        folder, _, name = uri.rpartition("/")
        return cls(Folder(folder), name.removesuffix(".json"))

    @property
    def uri(self) -> str:
        """Of the history."""
        return self.folder.path(f"{self.stage}.json")

    def read(self) -> list[Version]:
        """All versions of all models, the oldest first."""
        name = f"{self.stage}.json"
        if not self.folder.exists(name):
            return []
        try:
            return [Version.model_validate(each) for each in self.folder.read_json(name)["versions"]]
        except (ValidationError, ValueError, KeyError, TypeError) as cause:
            raise ArtifactError(
                "this history cannot be read", where=self.uri, next="raylm writes it; edit it by no hand"
            ) from cause

    def current(self, model: str) -> Version | None:
        """The version that clients of `model` have."""
        return next((each for each in reversed(self.read()) if each.model == model and not each.ended), None)

    def find(self, model: str, fingerprint: str = "") -> Version:
        """The version before the current one, or the last one whose fingerprint begins so.

        Raises:
            ConfigError: there is none.
        """
        ended = [each for each in self.read() if each.model == model and each.ended]
        now = self.current(model)
        others = [each for each in ended if not now or each.fingerprint != now.fingerprint]
        found = [each for each in others if each.fingerprint.startswith(fingerprint)]
        if len({each.fingerprint for each in found if fingerprint}) > 1:
            raise ConfigError(f"several versions begin with {fingerprint!r}", where=self.uri, next="say more of it")
        if not found:
            known = sorted({each.fingerprint for each in others})
            hint = did_you_mean(fingerprint, known) if fingerprint else ""
            raise ConfigError(
                f"{model} had no earlier version{f' {fingerprint!r}' if fingerprint else ''}.{hint}",
                where=self.uri,
                next=f"one of {', '.join(known)}" if known else "raylm update ENDPOINT MODEL",
            )
        return found[-1]

    def began(self, version: Version, why: str) -> None:
        """From now on clients have `version`; the one before ended because of `why`."""
        kept = [
            each.model_copy(update={"ended": version.began, "why": why})
            if each.model == version.model and not each.ended
            else each
            for each in self.read()
        ]
        self._write(f"{self.stage}.json", {"versions": [each.model_dump() for each in (*kept, version)]})

    def ask(self, asked: Ask) -> None:
        """Ask for an update. Raises PlanError where another one is under way, unless this one stops it."""
        busy, at = self.under_way(), self.progress()
        if busy is not None and not asked.stop:
            phase = at.phase if at is not None and at.number == busy.number else "not taken up yet"
            raise PlanError(
                f"another update is under way: {busy.model} to {busy.fingerprint} ({phase})",
                where=self.folder.path(f"{self.stage}.state.json"),
                next="raylm rollout ENDPOINT shows it, raylm rollback ENDPOINT gives it up",
            )
        self._write(f"{self.stage}.asked.json", asked.model_dump())

    def under_way(self) -> Ask | None:
        """What was asked for and has not ended."""
        asked, at = self.asked(), self.progress()
        if asked is None or asked.stop or (at is not None and at.over and at.number == asked.number):
            return None
        return asked

    def begin(self, started: Sequence[Version]) -> None:
        """An endpoint is started anew, with these versions: what was asked of the one before is over."""
        at = self.progress()
        if at is not None and not at.over:
            self.tell(
                at.model_copy(update={"phase": "stopped", "said": [*at.said, f"{now()} stopped: the endpoint started anew"]})
            )
        self.folder.remove(f"{self.stage}.asked.json")
        for version in started:
            current = self.current(version.model)
            if current is None or current.fingerprint != version.fingerprint:
                self.began(version, "the endpoint started anew")

    def asked(self) -> Ask | None:
        """What was asked for last."""
        return self._read(f"{self.stage}.asked.json", Ask)

    def progress(self) -> Progress | None:
        """What became of it."""
        return self._read(f"{self.stage}.state.json", Progress)

    def tell(self, progress: Progress) -> None:
        """Write what became of an ask."""
        self._write(f"{self.stage}.state.json", progress.model_dump())

    def _read(self, name: str, kind: type[Read]) -> Read | None:
        if not self.folder.exists(name):
            return None
        try:
            return kind.model_validate(self.folder.read_json(name))
        except (ValidationError, ValueError) as cause:
            raise ArtifactError("this file cannot be read", where=self.folder.path(name), next="remove it") from cause

    def _write(self, name: str, value: Any) -> None:
        self.folder.make().write_json(name, value)


def now() -> str:
    """UTC, in milliseconds: names an ask, too."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def who() -> str:
    """Who asks, for the history: user and machine."""
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (KeyError, OSError):
        return f"uid {os.getuid()}@{socket.gethostname()}"
