"""Takes a held generator and what is asked of it, leaves its answer, or in words why there is none."""

from __future__ import annotations

from typing import Any

from raylm.core.errors import PlacementError, RaylmError, StageError


class GeneratorLost(PlacementError):
    """The generator's process ended, or stood still: what was asked of it can be asked of a fresh one."""


def ask(generator: Any, method: str, *args: Any, timeout_s: float = 600.0, **options: Any) -> Any:
    """Result of one method of a held generator.

    Args:
        timeout_s: seconds without an answer; of `generate` without a step of its engine, however long the whole draw takes.

    Raises:
        GeneratorLost: its process is dead, or did not move in that time.
        RaylmError: what the method raised.
    """
    import ray

    asked = getattr(generator, method).remote(*args, **options)
    if isinstance(asked, ray.ObjectRef) or not hasattr(asked, "__next__"):
        return answer_of(asked, method, timeout_s)
    result = None
    while True:
        if not ray.wait([asked], timeout=timeout_s)[0]:
            raise _stood_still(method, timeout_s)
        try:
            reference = next(asked)
        except StopIteration:
            return result
        result = answer_of(reference, method, timeout_s)


def answer_of(reference: Any, method: str, timeout_s: float) -> Any:
    """Result of one call; `method` names it in errors, which are those of `ask`."""
    import ray
    from ray import exceptions

    try:
        return ray.get(reference, timeout=timeout_s)
    except exceptions.GetTimeoutError:
        raise _stood_still(method, timeout_s) from None
    except exceptions.RayTaskError as cause:
        # what the method raised, and not Ray's wrapping of it
        inner = getattr(cause, "cause", cause)
        if isinstance(inner, exceptions.ObjectLostError):
            raise GeneratorLost(f"what was sent is lost: {str(inner).splitlines()[0]}", where=f"generator.{method}") from None
        raise inner from None
    except (exceptions.RayActorError, exceptions.ObjectLostError, exceptions.OutOfMemoryError) as cause:
        raise GeneratorLost(
            f"the generator's process is dead: {how_it_ended(cause)}",
            where=f"generator.{method}",
            next="run again: the next run holds a fresh one; was it out of memory?",
        ) from None


def how_it_ended(cause: BaseException) -> str:
    """What Ray says of the end of an actor's process, less its advice."""
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    if lines and "creation task" in lines[0]:
        return lines[-1][:300]  # its constructor raised: the last line of the traceback
    told = next((line for line in lines if "exit detail" in line or "memory" in line), lines[0] if lines else "")
    return told.partition("Worker exit detail: ")[2].partition(" Some common causes")[0][:300].rstrip(".") or told[:300]


def _stood_still(method: str, timeout_s: float) -> GeneratorLost:
    return GeneratorLost(
        f"the generator (one vLLM engine) did not move for {timeout_s:g} s in `{method}`",
        where=f"generator.{method}",
        next="raise hang_s in the stage's `generator` table if it needs longer; its log lies in Ray's session folder",
    )


class InWords:
    """What vLLM raises leaves this process as words: many of its exceptions cannot be made again at the driver, and those
    that can would import vLLM there."""

    def __init__(self, method: str) -> None:
        self._method = method

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, cause: BaseException | None, trace: Any) -> None:
        if isinstance(cause, Exception) and not isinstance(cause, RaylmError):
            said = " ".join(line.strip() for line in str(cause).splitlines() if line.strip() and "https://" not in line)
            raise StageError(f"{type(cause).__name__}: {said[:600]}", where=f"generator.{self._method}") from None
