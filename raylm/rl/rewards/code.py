"""The `code` reward: whether the program in a completion passes its tests, run in a sandbox."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from raylm.data.programs.cases import failures, program_of, read_tests
from raylm.data.programs.sandbox import MORE_S, Limits, run
from raylm.rl.rewards.reward import Reward
from raylm.rl.types import Prompt, Score, Trajectory, Unscored

GROUND_TRUTH = "ground_truth"


class Code(Reward):
    """Python code is run without network, files, further processes, and with bounded memory, time and output (Linux on x86-64;
    what the sandbox keeps out is in `raylm/data/programs/jail.py`). Tests are a column of the prompts' rows, in one of these
    forms:

    - cases of standard input and output: `[{"input": "1 2", "output": "3"}]`, `{"inputs": [...], "outputs": [...]}` (APPS, TACO);
      with `fn_name` the inputs are lists of arguments of that function, the outputs what it must return;
    - asserts: `["assert add(1, 2) == 3", ...]` (MBPP), or a text of several statements, which is one test.

    Output is compared line by line, without spaces at their ends. What a program prints cannot make itself right. Asserts run in
    a process of their own with copies of the program's values, where an object of a class of its own equals no plain value; only
    a helper that they take from the program (`isclose` without `math.`) is the program's to forge.
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
        wrong = failures(source, tests, self._limits(), every=self.partial)
        passed = sum(not each for each in wrong)
        first = next((each for each in wrong if each), "")
        share = passed / len(tests) if self.partial else float(passed == len(tests))
        return Score(self.value * share, f"{passed} of {len(tests)} tests passed" + (f"; {first}" if first else ""))

    def _source(self, text: str) -> str | None:
        return program_of(text) if self.fenced else text

    def _limits(self) -> Limits:
        return Limits(self.timeout_s, self.memory_mb << 20, self.output_kb << 10, landlock=not self.reads_files)
