"""Calls into vLLM: only their value, or a plain error, gets out.

An exception travels to Serve's controller and proxy by pickle, and whoever unpickles a class of vLLM imports vLLM and torch
first: minutes on a small machine, in the two processes that keep everything going.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from typing import TypeVar

from raylm.core.errors import RaylmError

Value = TypeVar("Value")


async def plainly(call: Awaitable[Value]) -> Value:
    """Await `call`. Raises RuntimeError with the words of whatever it raises; raylm's own errors hold only words and pass."""
    try:
        return await call
    except RaylmError:
        raise
    except Exception as error:
        logging.getLogger("ray.serve").exception("a call into the engine failed")
        words = f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(": ")
    # outside of the handler: as a context the original would travel along
    raise RuntimeError(words)
