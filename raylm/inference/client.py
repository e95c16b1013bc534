"""A client of OpenAI-compatible endpoints: retries with growing pauses until a deadline, and bounded concurrency.

Used by `raylm chat`, by scores that a model gives documents, by rewards and by the endpoint's own trial. Needs neither torch nor
ray.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from typing import Any, Literal, NamedTuple

from raylm.core.errors import ConfigError

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 10.0

Messages = Sequence[Any]
"""Chat messages as dicts of role and content."""


class Reply(NamedTuple):
    """An answer, or why there is none.

    `failed` is "" for an answer, "unanswered" where nothing came until the deadline (time-outs, 429, 5xx and broken connections
    are tried again until then), "refused" where the endpoint does not take this request as it is.
    """

    text: str
    failed: str = ""
    why: str = ""


class Client:
    """One model behind one endpoint. Close it, or use it as a context manager.

    Args:
        url: base URL, with /v1.
        model: name to ask for.
        key: without one, `none` is sent.
        deadline_s: most seconds for one request, with everything tried again until then.
        concurrency: requests that are under way at the same time.
        hint: what to do when the endpoint refuses key or model, for the error.
    """

    def __init__(
        self, url: str, model: str, key: str | None = None, *, deadline_s: float = 120.0, concurrency: int = 16, hint: str = ""
    ) -> None:
        self._url, self._model, self._key, self._hint = url, model, key, hint
        self._deadline_s, self._concurrency = deadline_s, concurrency
        self._sync = connect(url, key, deadline_s)
        self._async: Any = None
        self._free: asyncio.Semaphore | None = None

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._sync.close()

    def ask(self, messages: Messages, **options: Any) -> Reply:
        """One chat completion; `options` are those of the API (max_tokens, temperature, ...).

        Raises:
            ConfigError: the endpoint refuses the key or does not know the model: no other request would fare better.
        """
        made = self.made("chat", messages, **options)
        return made if isinstance(made, Reply) else _reply(made)

    def made(self, shape: Literal["chat", "text"], prompt: Any, **options: Any) -> Any:
        """The whole answer as the API's object, or the Reply that says why there is none.

        Args:
            shape: `chat`: messages to /chat/completions; `text`: a text, or token ids, to /completions.

        Raises:
            ConfigError: as `ask`.
        """
        from openai import OpenAIError

        to = self._sync.chat.completions if shape == "chat" else self._sync.completions
        asked = {"model": self._model, ("messages" if shape == "chat" else "prompt"): list(prompt) if shape == "chat" else prompt}
        retry = Retry(self._deadline_s)
        while True:
            try:
                return to.create(**asked, **options, timeout=retry.left())
            except OpenAIError as cause:
                pause = self._judged(retry, cause)
            if isinstance(pause, Reply):
                return pause
            time.sleep(pause)

    def ask_each(self, requests: Iterable[Messages], **options: Any) -> Generator[Reply]:
        """Replies to many requests, in their order. Requests that were not begun are dropped when the iterator is closed."""
        with ThreadPoolExecutor(self._concurrency) as threads:
            asked = [threads.submit(self.ask, messages, **options) for messages in requests]
            try:
                for one in asked:
                    yield one.result()
            finally:
                threads.shutdown(wait=False, cancel_futures=True)

    async def ask_async(self, messages: Messages, **options: Any) -> Reply:
        """`ask` for an event loop; the client belongs to the loop that first called it."""
        from openai import AsyncOpenAI, OpenAIError

        if self._async is None:
            self._async = AsyncOpenAI(base_url=self._url, api_key=self._key or "none", max_retries=0)
            self._free = asyncio.Semaphore(self._concurrency)
        assert self._free is not None
        async with self._free:
            retry = Retry(self._deadline_s)
            while True:
                try:
                    made = self._async.chat.completions.create(**self._request(messages, options), timeout=retry.left())
                    return _reply(await made)
                except OpenAIError as cause:
                    pause = self._judged(retry, cause)
                if isinstance(pause, Reply):
                    return pause
                await asyncio.sleep(pause)

    def _request(self, messages: Messages, options: dict[str, Any]) -> dict[str, Any]:
        return {"model": self._model, "messages": list(messages), **options}

    def _judged(self, retry: Retry, cause: Any) -> Reply | float:
        """Seconds until the next try, or the reply that says why there is none."""
        import openai

        if isinstance(cause, (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError)):
            raise ConfigError(f"the endpoint refuses: {cause.message}", where=self._url, next=self._hint or None) from cause
        # a time-out is a connection error too
        if isinstance(cause, (openai.APIConnectionError, openai.RateLimitError, openai.InternalServerError)):
            pause = retry.pause(retry_after(cause))
            return Reply("", "unanswered", str(cause)) if pause is None else pause
        # this request as it is: too long, or against the endpoint's rules
        return Reply("", "refused", str(cause))


class Retry:
    """Pauses between tries: they double, and end at a deadline."""

    def __init__(self, deadline_s: float) -> None:
        self._until, self._pause = time.monotonic() + deadline_s, FIRST_PAUSE_S

    def left(self) -> float:
        """Seconds for the next try."""
        return max(self._until - time.monotonic(), 0.1)

    def pause(self, wanted_s: float | None = None) -> float | None:
        """Seconds to wait, the endpoint's own wish where it has one; None when that would be after the deadline."""
        # many clients that were refused together must not come back together
        found = wanted_s if wanted_s is not None else self._pause * random.uniform(0.75, 1.0)
        self._pause = min(self._pause * 2, LONGEST_PAUSE_S)
        return None if time.monotonic() + found >= self._until else found


def connect(url: str, key: str | None, timeout_s: float, headers: dict[str, str] | None = None) -> Any:
    """OpenAI's own client, without retries, for what is streamed or inspected; every request carries `headers`."""
    from openai import OpenAI

    return OpenAI(base_url=url, api_key=key or "none", timeout=timeout_s, max_retries=0, default_headers=headers)


def retry_after(cause: Any) -> float | None:
    """Seconds that a response's Retry-After asks to wait: a number, or a date. None where it says nothing."""
    response = getattr(cause, "response", None)
    wish = response.headers.get("retry-after") if response is not None else None
    if not wish:
        return None
    try:
        seconds = float(wish)
        return max(seconds, 0.0) if math.isfinite(seconds) else None
    except ValueError:
        pass
    try:
        return max(parsedate_to_datetime(wish).timestamp() - time.time(), 0.0)
    except ValueError:
        return None


def _reply(made: Any) -> Reply:
    return Reply((made.choices[0].message.content or "") if made.choices else "")
