"""An exception of a heavy package leaves as words only."""

from __future__ import annotations

import asyncio
import pickle

import pytest

from raylm.core.errors import StageError
from raylm.serve.engine.plain import plainly


class OfAHeavyPackage(ValueError):
    def __reduce__(self):
        raise AssertionError("this class must not travel")


async def failing(error):
    raise error from OfAHeavyPackage("the cause")


def test_only_words_travel():
    with pytest.raises(RuntimeError) as caught:
        asyncio.run(plainly(failing(OfAHeavyPackage("the engine\n  is dead"))))
    error = caught.value
    assert type(error) is RuntimeError
    assert str(error) == "OfAHeavyPackage: the engine is dead"
    assert error.__cause__ is None
    assert error.__context__ is None
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_values_and_our_own_errors_pass():
    assert asyncio.run(plainly(asyncio.sleep(0, "value"))) == "value"
    with pytest.raises(StageError, match="in words"):
        asyncio.run(plainly(failing(StageError("in words", next="do this"))))
