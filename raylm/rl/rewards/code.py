"""The `code` reward: whether the program in a completion passes its tests, run in a sandbox."""

from __future__ import annotations

import json
import re
from typing import Any, Literal, NamedTuple

from pydantic import Field

from raylm.rl.rewards.reward import Reward
from raylm.rl.rewards.sandbox import MORE_S, Limits, run
from raylm.rl.types import Prompt, Score, Trajectory, Unscored

FENCE = re.compile(r"```(?:python|py)?3?[ \t]*\n(.*?)```", re.DOTALL | re.IGNORECASE)
GROUND_TRUTH = "ground_truth"


class Case(NamedTuple):
    """What a program gets on its standard input, and what it must print."""

    given: str
    wanted: str


class Code(Reward):
    """Python code is run without network, files, further processes, and with bounded memory, time and output (Linux on x86-64;
    what the sandbox keeps out is in `raylm/rl/rewards/jail.py`). Tests are a column of the prompts' rows, in one of these forms:

    - cases of standard input and output: `[{"input": "1 2", "output": "3"}]`, `{"inputs": [...], "outputs": [...]}` (APPS, TACO);
      with `fn_name` the inputs are lists of arguments of that function, the outputs what it must return;
    - asserts: `["assert add(1, 2) == 3", ...]` (MBPP), or a text of several statements, which is one test.

    Output is compared line by line, without spaces at their ends. What a program prints cannot make itself right; asserts run
    in the program's own interpreter, and one that sets out to can forge that they passed: take cases where there are any.
    """

    kind: Literal["code"] = "code"
    tests: str = "tests"
    """Column of the prompts' rows that holds the tests; `ground_truth` for what stands in the ground truth."""
    value: float = Field(default=1.0, allow_inf_nan=False)
    """Reward of a program that passes all tests."""
    partial: bool = False
    """Reward the share of tests that it passes; else nothing but all counts."""
    fenced: bool = True
    """The program is the last one between ``` and ```; false: the whole completion."""
    max_tests: int = Field(default=16, ge=1)
    """Tests that are run at most: the first ones."""
    timeout_s: float = Field(default=5.0, gt=0, allow_inf_nan=False)
    """Seconds of CPU time for each test."""
    memory_mb: int = Field(default=512, ge=64)
    """Most memory of a program."""
    output_kb: int = Field(default=256, ge=1)
    """Most output of a program."""
    reads_files: bool = False
    """It may read the files that the reward worker may read. Needed where the kernel has no Landlock."""

    @property
    def call_deadline_s(self) -> float:
        """Seconds for one completion."""
        return self.max_tests * (self.timeout_s + MORE_S) + MORE_S

    def runner(self) -> Code:
        """This card, once the sandbox was tried. Raises ConfigError where this machine cannot confine a program."""
        run("import socket\ntry:\n  socket.socket()\n  print('open')\nexcept PermissionError:\n  pass", self._limits())
        return self

    def score_one(self, prompt: Prompt, trajectory: Trajectory) -> Score | Unscored:
        """The reward, with what went wrong first."""
        told = prompt.ground_truth if self.tests == GROUND_TRUTH else (prompt.columns or {}).get(self.tests)
        tests = read_tests(told)
        if not tests:
            return Unscored("no_tests", f"the prompt's row has no tests in `{self.tests}`")
        source = self._source(trajectory.text)
        if source is None:
            return Score(0.0, "no code")
        tests = tests[: self.max_tests]
        wrong = self._wrong(source, tests)
        passed = sum(not each for each in wrong)
        first = next((each for each in wrong if each), "")
        share = passed / len(tests) if self.partial else float(passed == len(tests))
        return Score(self.value * share, f"{passed} of {len(tests)} tests passed" + (f"; {first}" if first else ""))

    def _source(self, text: str) -> str | None:
        if not self.fenced:
            return text
        found = FENCE.findall(text)
        return found[-1] if found else None

    def _wrong(self, source: str, tests: list[Case | str]) -> list[str]:
        """Of each test, what went wrong; "" where nothing did."""
        checks = [test for test in tests if isinstance(test, str)]
        if checks:
            ran = run(source, self._limits(), checks=checks)
            if ran.failed is None:
                return [ran.error or ran.ended or "the program ended before its tests"] * len(checks)
            return [each and f"{each} in {check[:80]}" for each, check in zip(ran.failed, checks, strict=True)]
        found: list[str] = []
        for test in tests:
            assert isinstance(test, Case)
            ran = run(source, self._limits(), test.given)
            if ran.ended:
                found.append(ran.error or ran.ended)
            else:
                found.append("" if _lines(ran.output) == _lines(test.wanted) else f"printed {ran.output.strip()[:60]!r}")
            if found[-1] and not self.partial:
                # one that fails is enough; what would follow is not run
                return [*found, *["not run"] * (len(tests) - len(found))]
        return found

    def _limits(self) -> Limits:
        return Limits(self.timeout_s, self.memory_mb << 20, self.output_kb << 10, landlock=not self.reads_files)


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
