"""The audit log of an endpoint: who asked which model for how much, a line of JSON for each request that key and guards let in.

{job}/.audit/{stage}/2026-01-31-1a2b3c.jsonl   (a file per day and replica; a bucket's endpoint has none)
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from pydantic import Field

from raylm.core.config import Config
from raylm.core.storage import Folder
from raylm.serve.engine.spans import spans_of

if TYPE_CHECKING:
    from raylm.serve.usage import Done

AUDIT = ".audit"
MOST_LINES = 10_000
"""Lines that wait for a disk; more are left out, and counted."""


class Audit(Config):
    """What the log keeps."""

    text: bool = False
    """Keep the bodies of requests too, which may be private. Answers are not kept."""
    text_bytes: int = Field(default=20_000, ge=0)
    """Most bytes of a body that are kept."""


def audit_folder(endpoint: Folder) -> str:
    """Where the log of the endpoint in `endpoint` lies; "" where that is no disk."""
    job, _, stage = endpoint.uri.rstrip("/").rpartition("/")
    return str(Path(job) / AUDIT / stage) if endpoint.is_local else ""


class AuditLog:
    """Writes the lines of one gateway."""

    def __init__(self, folder: str, card: Audit) -> None:
        self._folder, self._card, self._name = Path(folder), card, uuid4().hex[:6]
        self._lines: list[str] = []
        self._left_out = 0
        self._writing = False

    async def append(self, done: Done, model: str, body: bytes) -> None:
        """One request that has ended. Nothing waits: what comes while the disk is busy is written together."""
        if len(self._lines) >= MOST_LINES:
            # the disk hangs: the endpoint does not end for it
            self._left_out += 1
            return
        self._lines.append(self._line(done, model, body))
        if self._writing:
            return
        self._writing = True
        try:
            while self._lines:
                lines, self._lines = self._lines, []
                await asyncio.to_thread(self._write, lines)
                if self._left_out:
                    logging.getLogger("ray.serve").error("the audit log lacks %s lines: its disk was too slow", self._left_out)
                    self._left_out = 0
        finally:
            self._writing = False

    def write(self, done: Done, model: str, body: bytes) -> None:
        """One request that has ended, now."""
        self._write([self._line(done, model, body)])

    def _line(self, done: Done, model: str, body: bytes) -> str:
        visit, now = done.visit, datetime.now(UTC)
        line = {
            "time": now.isoformat(timespec="milliseconds"),
            "key": visit.key,
            "method": visit.method,
            "path": visit.path,
            "model": model,
            "status": done.status,
            "prompt_tokens": done.prompt_tokens,
            "completion_tokens": done.completion_tokens,
            "first_s": round(done.first_s, 3),
            "seconds": round(done.seconds, 3),
            "request": visit.number,
            "served": done.served,
        }
        if done.marks:
            # tokens [start, end) of which choice are of which weights
            line["spans"] = [list(each) for each in spans_of(done.served, done.marks)]
        if self._card.text:
            line["body"] = body[: self._card.text_bytes].decode("utf-8", "replace")
        return json.dumps(line, ensure_ascii=False) + "\n"

    def _write(self, lines: list[str]) -> None:
        """A disk that takes nothing costs the lines, and is said in the process's log."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            at = self._folder / f"{datetime.now(UTC).date()}-{self._name}.jsonl"
            with os.fdopen(os.open(at, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab") as file:
                # a path may hold bytes that are no text: they cost nobody's line
                file.write("".join(lines).encode("utf-8", "backslashreplace"))
        except OSError as cause:
            logging.getLogger("ray.serve").error("the audit log cannot be written: %s", cause.strerror)
