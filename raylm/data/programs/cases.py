"""Programs in texts, the tests that they must pass, and what went wrong in each test."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from raylm.data.programs.sandbox import Limits, run

_FENCE = re.compile(r"```(?:python|py)?3?[ \t]*\n(.*?)```", re.DOTALL | re.IGNORECASE)


class Case(NamedTuple):
    """What a program gets on its standard input, and what it must print."""

    given: str
    wanted: str


def program_of(text: str) -> str | None:
    """The last program between ``` and ``` in a text; None where there is none."""
    found = _FENCE.findall(text)
    return found[-1] if found else None


def failures(source: str, tests: list[Case | str], limits: Limits, every: bool = False) -> list[str]:
    """Of each test, what went wrong; "" where nothing did.

    Args:
        tests: cases, or statements that are executed with the program's names; not both.
        limits: for each case, or for the program and its statements together.
        every: run the cases behind the first one that fails, too.

    Raises:
        ConfigError: this machine cannot confine a program.
    """
    checks = [test for test in tests if isinstance(test, str)]
    if checks:
        ran = run(source, limits, checks=checks)
        if ran.failed is None:
            return [ran.error or ran.ended or "the program ended before its tests"] * len(checks)
        return [each and f"{each} in {check[:80]}" for each, check in zip(ran.failed, checks, strict=True)]
    found: list[str] = []
    for test in tests:
        assert isinstance(test, Case)
        ran = run(source, limits, test.given)
        if ran.ended:
            found.append(ran.error or ran.ended)
        else:
            found.append("" if _lines(ran.output) == _lines(test.wanted) else f"printed {ran.output.strip()[:60]!r}")
        if found[-1] and not every:
            # one that fails is enough; what would follow is not run
            return [*found, *["not run"] * (len(tests) - len(found))]
    return found


def read_tests(told: Any) -> list[Case | str]:
    """Tests as a row has them; none where it is no form of tests. Cases and asserts are not mixed."""
    if isinstance(told, str):
        try:
            told = json.loads(told)
        except ValueError:
            return [told] if told.strip() else []
    if isinstance(told, dict):
        given, wanted = told.get("inputs"), told.get("outputs")
        if not (isinstance(given, list) and isinstance(wanted, list) and len(given) == len(wanted)):
            return []
        if name := told.get("fn_name"):
            return [f"assert {name}(*{arguments!r}) == {result!r}" for arguments, result in zip(given, wanted, strict=True)]
        return [Case(_text(one), _text(other)) for one, other in zip(given, wanted, strict=True)]
    if not isinstance(told, list):
        return []
    if all(isinstance(each, str) for each in told):
        return [each for each in told if each.strip()]
    if all(isinstance(each, dict) and {"input", "output"} <= each.keys() for each in told):
        return [Case(_text(each["input"]), _text(each["output"])) for each in told]
    return []


def _text(given: Any) -> str:
    return "\n".join(map(str, given)) if isinstance(given, list) else str(given)


def _lines(text: str) -> list[str]:
    return "\n".join(line.rstrip() for line in text.splitlines()).strip("\n").split("\n")
