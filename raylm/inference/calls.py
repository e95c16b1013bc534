"""Answers of generators, or in words why there is none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from raylm.core.errors import PlacementError, RaylmError, StageError


class GeneratorLost(PlacementError):
    """The generator's process or its engine ended, or stood still: what was asked of it can be asked of a fresh one."""


def answer_of(reference: Any, method: str, timeout_s: float) -> Any:
    """Result of one call of a generator's `method`.

    Raises:
        GeneratorLost: its process is dead, or did not answer in `timeout_s` seconds.
        RaylmError: what the method raised.
    """
    import ray
    from ray import exceptions

    try:
        return ray.get(reference, timeout=timeout_s)
    except exceptions.GetTimeoutError:
        raise GeneratorLost(
            f"the generator (one vLLM engine) did not move for {timeout_s:g} s in `{method}`",
            where=f"generator.{method}",
            next="raise hang_s in the stage's `generator` table if it needs longer; its log lies in Ray's session folder",
        ) from None
    except exceptions.RayError as cause:
        raise in_words(cause, method) from None


def in_words(cause: BaseException, method: str) -> BaseException:
    """What a call of a generator's `method` raised, without Ray's wrapping: GeneratorLost where its process is dead."""
    from ray import exceptions

    inner = cause
    if isinstance(cause, exceptions.RayTaskError):
        inner = getattr(cause, "cause", cause)
        if isinstance(inner, exceptions.ObjectLostError):
            return GeneratorLost(f"what was sent is lost: {str(inner).splitlines()[0]}", where=f"generator.{method}")
    elif isinstance(cause, (exceptions.RayActorError, exceptions.ObjectLostError, exceptions.OutOfMemoryError)):
        return GeneratorLost(
            f"the generator's process is dead: {how_it_ended(cause)}",
            where=f"generator.{method}",
            next="run again: the next run holds a fresh one; was it out of memory?",
        )
    return inner


def how_it_ended(cause: BaseException) -> str:
    """What Ray says of the end of an actor's process, less its advice."""
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    if lines and "creation task" in lines[0]:
        return lines[-1][:300]  # its constructor raised: the last line of the traceback
    told = next((line for line in lines if "exit detail" in line or "memory" in line), lines[0] if lines else "")
    return told.partition("Worker exit detail: ")[2].partition(" Some common causes")[0][:300].rstrip(".") or told[:300]


class InWords:
    """What vLLM raises leaves this process as words: many of its exceptions cannot be made again at the driver, and those
    that can would import vLLM there.

    Args:
        method: named in the error.
        is_lost: whether an error means that the engine has ended.
    """

    def __init__(self, method: str, is_lost: Callable[[BaseException], bool]) -> None:
        self._method, self._is_lost = method, is_lost

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, cause: BaseException | None, trace: Any) -> None:
        if not isinstance(cause, Exception) or isinstance(cause, RaylmError):
            return
        where = f"generator.{self._method}"
        if self._is_lost(cause):
            raise GeneratorLost("the generator's engine has ended; its log lies in Ray's session folder", where=where) from None
        said = " ".join(line.strip() for line in str(cause).splitlines() if line.strip() and "https://" not in line)
        raise StageError(f"{type(cause).__name__}: {said[:600]}", where=where) from None
