"""The `code` checker: the program in the answer passes its tests, run in a sandbox."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from raylm.data.programs.cases import failures, program_of, read_tests
from raylm.data.programs.sandbox import Limits
from raylm.evaluate.checkers.checker import Checked, Checker
from raylm.evaluate.items import Item

GROUND_TRUTH = "ground_truth"


class Code(Checker):
    """Python is run without network, files, further processes, and with bounded memory, time and output (Linux on x86-64;
    `raylm/data/programs/jail.py` says what is kept out). Tests are a column of the prompts' rows: cases of standard input and
    output (`[{"input": "1 2", "output": "3"}]`, APPS' and TACO's tables), asserts (MBPP), or a text of statements, which is one
    test (HumanEval). Asserts and statements run in a process of their own with copies of the program's values
    (`raylm/data/programs/judge.py`): the program cannot say of itself that it passed."""

    votes: ClassVar[bool] = False

    kind: Literal["code"] = "code"
    tests: str = "tests"
    """Column that holds the tests; `ground_truth` for what stands in the ground truth."""
    prefix: str = ""
    """Column whose text stands before the program, where answers continue it (HumanEval's `prompt`)."""
    fenced: bool = True
    """The program is the last one between ``` and ```; false: the whole answer."""
    partial: bool = False
    """Count the share of tests that it passes; else nothing but all counts."""
    max_tests: int = Field(default=64, ge=1)
    """Tests that are run at most: the first ones."""
    timeout_s: float = Field(default=5.0, gt=0, allow_inf_nan=False)
    """Seconds of CPU time for each test."""
    memory_mb: int = Field(default=512, ge=64)
    """Most memory of a program."""
    reads_files: bool = False
    """It may read the files that this process may. Needed where the kernel has no Landlock."""

    def unchecked(self, item: Item) -> str:
        if self.prefix and not isinstance(item.columns.get(self.prefix), str):
            return f"without a text in column {self.prefix!r}"
        return "" if self._tests(item) else f"without tests in {self.tests!r}"

    def check(self, text: str, item: Item) -> Checked:
        """Raises ConfigError where this machine cannot confine a program."""
        source = program_of(text) if self.fenced else text
        if source is None:
            return Checked(0.0, "no code")
        if self.prefix:
            source = f"{item.columns[self.prefix]}{source}"
        tests = self._tests(item)[: self.max_tests]
        limits = Limits(self.timeout_s, self.memory_mb << 20, 1 << 18, landlock=not self.reads_files)
        wrong = failures(source, tests, limits, every=self.partial)
        passed = sum(not each for each in wrong)
        first = next((each for each in wrong if each), "")
        share = passed / len(tests) if self.partial else float(passed == len(tests))
        return Checked(share, f"{passed} of {len(tests)} tests passed" + (f"; {first}" if first else ""))

    def _tests(self, item: Item) -> list:
        return read_tests(item.ground_truth if self.tests == GROUND_TRUTH else item.columns.get(self.tests))
