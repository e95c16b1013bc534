"""A steady load of streams, free of coordinated omission: each request has its time by the clock, whether or not those before it
were answered, and all that it waits counts from that time on."""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
import time
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Answer:
    """One request. Times are of time.monotonic()."""

    due: float
    """When it was to be sent."""
    sent: float = 0.0
    times: list[float] = field(default_factory=list)
    """Of each event that held text."""
    end: float = 0.0
    failed: str = ""
    text: str = ""

    @property
    def waits(self) -> list[float]:
        """Seconds until the first token, and from each to the next; until it was given up, where it failed."""
        marks = [self.due, *self.times, self.end]
        return [after - before for before, after in itertools.pairwise(marks)]


class Steady:
    """Streams to an endpoint at a rate of so many a second, from a thread of its own, while used as a context manager.

    Args:
        body: fields of /v1/completions; `stream` is set here.
    """

    def __init__(self, url: str, key: str | None, body: dict[str, Any], rate: float) -> None:
        self._url, self._key, self._rate = url, key, rate
        self._body = json.dumps({**body, "stream": True}).encode()
        self.answers: list[Answer] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def __enter__(self) -> Steady:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(180)

    @property
    def late_s(self) -> float:
        """Most that the client itself sent a request too late: its own saturation."""
        return max((each.sent - each.due for each in self.answers), default=0.0)

    async def _run(self) -> None:
        import aiohttp

        began, tasks = time.monotonic(), []
        connector, timeout = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(total=120)
        headers = {"content-type": "application/json", **({"authorization": f"Bearer {self._key}"} if self._key else {})}
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, headers=headers) as session:
            while not self._over.is_set():
                answer = Answer(began + len(self.answers) / self._rate)
                await asyncio.sleep(max(0.0, answer.due - time.monotonic()))
                self.answers.append(answer)
                tasks.append(asyncio.create_task(self._ask(session, answer)))
            await asyncio.gather(*tasks)

    async def _ask(self, session: Any, answer: Answer) -> None:
        import aiohttp

        answer.sent = time.monotonic()
        try:
            async with session.post(f"{self._url}/completions", data=self._body) as reply:
                if reply.status != 200:
                    answer.failed = f"{reply.status} {(await reply.text())[:200]}"
                    return
                async for line in reply.content:
                    self._hear(answer, line)
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            answer.failed = f"{type(error).__name__}: {error}"[:200]
        finally:
            answer.end = time.monotonic()

    def _hear(self, answer: Answer, line: bytes) -> None:
        if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
            return
        event = json.loads(line[6:])
        if "error" in event:
            answer.failed = str(event["error"].get("code"))
        for choice in event.get("choices", ()):
            answer.text += choice.get("text") or ""
            if choice.get("text"):
                answer.times.append(time.monotonic())
