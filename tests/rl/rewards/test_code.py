"""Programs in a sandbox: what passes its tests, and what tries to do more than compute."""

from __future__ import annotations

import json
import os
import threading

import pytest

from raylm.data.programs.cases import Case, read_tests
from raylm.data.programs.jail import landlock_version
from raylm.data.programs.sandbox import Limits, run
from raylm.rl.rewards.code import Code
from raylm.rl.types import Prompt, Score, Trajectory, Unscored

LIMITS = Limits(1.0, 512 << 20, 1 << 16)
DOUBLE = "Sure:\n```python\nprint(int(input()) * 2)\n```\nDone."
CASES = [{"input": "21\n", "output": "42"}, {"input": "-1", "output": "-2\n"}]


def scored(text: str, tests, **table) -> Score | Unscored:
    prompt = Prompt(0, [], "[]", None, columns={"tests": tests})
    return Code(**table).score_one(prompt, Trajectory([], [], text, "stop"))


def test_a_program_is_run_on_each_case():
    assert scored(DOUBLE, CASES) == Score(1.0, "2 of 2 tests passed")
    wrong = [*CASES, {"input": "1", "output": "3"}]
    assert scored(DOUBLE, wrong) == Score(0.0, "2 of 3 tests passed; printed '2'")
    assert scored(DOUBLE, wrong, partial=True, value=3.0).value == pytest.approx(2.0)
    assert scored(DOUBLE, [{"input": "x", "output": "1"}]).reason.startswith("0 of 1 tests passed; ValueError")
    assert scored("no program", CASES) == Score(0.0, "no code")


def test_asserts_are_executed_with_the_programs_names():
    text = "```\ndef add(a, b):\n    return a + b\n```"
    checks = ["assert add(1, 2) == 3", "assert add('a', 'ü') == 'aü'"]
    assert scored(text, checks).value == 1.0
    assert scored(text, [*checks, "assert add(1, 1) == 3"]) == Score(
        0.0, "2 of 3 tests passed; AssertionError in assert add(1, 1) == 3"
    )
    assert scored(text, {"fn_name": "add", "inputs": [[1, 2], [[1], [2]]], "outputs": [3, [1, 2]]}).value == 1.0


@pytest.mark.parametrize("source", ["import os; os._exit(0)", "import sys; sys.exit(0)", "raise SystemExit", "1/0", "def f(:"])
def test_a_program_that_ends_before_its_checks_has_not_passed_them(source):
    assert run(source, LIMITS, checks=["assert True"]).failed is None


@pytest.mark.parametrize("verdict", ['{"refused": "x"}', "[" * 100_000])
def test_a_verdict_that_is_not_the_sandboxs_own_fails_the_program(verdict):
    source = f"import os\nos.write(4, {verdict!r}.encode())\nos._exit(0)"
    found = scored(f"```python\n{source}\n```", ["assert True"])
    assert isinstance(found, Score) and found.value == 0.0


def test_a_program_that_writes_the_verdict_itself_is_not_believed():
    source = 'import os, json\nos.write(4, json.dumps({"word": "x", "failed": [""]}).encode())\nos._exit(0)'
    assert run(source, LIMITS, checks=["assert False"]).failed is None


FORBIDDEN = {
    "a socket": "import socket; socket.socket()",
    "a call of the kernel": "import ctypes, os\nif ctypes.CDLL(None).syscall(41, 2, 1, 0) < 0: raise PermissionError",
    "a process": "import os; os.fork()",
    "a program": "import subprocess; subprocess.run(['/bin/true'])",
    "a replaced program": "import os; os.execv('/bin/true', ['true'])",
    "a pool": "import multiprocessing; multiprocessing.Pool(2)",
    "a fork bomb": "import os\nwhile True: os.fork()",
    "a file": "open('/tmp/raylm-was-here', 'w')",
    "a removed file": "import os; os.remove(KEPT)",
    "a renamed file": "import os; os.rename(KEPT, KEPT + 'x')",
    "a changed mode": "import os; os.chmod(KEPT, 0)",
    "a longer file": "import os; os.truncate(KEPT, 0)",
    "a signal": "import os; os.kill(os.getppid(), 9)",
    "somebody's secrets": "open(KEPT).read()",
    "somebody's environment": "import os; open(f'/proc/{os.getppid()}/environ').read()",
    "more time": "import resource; resource.prlimit(0, resource.RLIMIT_CPU, (99, 99))",
}


@pytest.mark.parametrize("source", FORBIDDEN.values(), ids=FORBIDDEN.keys())
def test_what_a_program_may_not_do(source, tmp_path):
    kept = tmp_path / "kept"
    kept.write_text("secret")
    ran = run(f"KEPT = {str(kept)!r}\n{source}", LIMITS)
    assert ran.ended == "exit 1" and ("Permission" in ran.error or "not permitted" in ran.error), ran
    assert kept.read_text() == "secret" and not os.path.exists("/tmp/raylm-was-here")


def test_bounds_of_memory_time_and_output():
    assert run("x = bytearray(10 << 30)", LIMITS).error == "MemoryError"
    assert run("while True: pass", LIMITS).ended == "time_out"
    flood = run("while True: print('x' * 10000)", LIMITS)
    assert flood.ended == "exit 1" and len(flood.output) <= LIMITS.output_bytes


def test_what_a_program_may_do():
    source = (
        "import asyncio, math, os, threading, numpy as np\n"
        "thread = threading.Thread(target=print, args=('thread',)); thread.start(); thread.join()\n"
        "async def one(): return 1\n"
        "print(asyncio.run(one()), int(np.arange(4).sum()), 'é')\n"
        "assert not [name for name in os.environ if 'KEY' in name or 'TOKEN' in name]"
    )
    ran = run(source, LIMITS)
    assert (ran.ended, ran.output) == ("", "thread\n1 6 é\n"), ran


def test_files_may_be_read_where_that_is_allowed(tmp_path):
    (tmp_path / "kept").write_text("public")
    ran = run(f"print(open({str(tmp_path / 'kept')!r}).read())", LIMITS._replace(landlock=False))
    assert ran.output == "public\n"
    # what is written nowhere needs no Landlock
    assert run("open('/tmp/raylm-was-here', 'w')", LIMITS._replace(landlock=False)).ended == "exit 1"


def test_several_at_the_same_time_do_not_mix():
    found: dict[int, str] = {}

    def one(number: int) -> None:
        found[number] = run("print(input())", LIMITS, str(number)).output.strip()

    threads = [threading.Thread(target=one, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: str(number) for number in range(4)}


def test_tests_in_all_their_forms():
    two = [Case("1", "2"), Case("3\n4", "5")]
    assert read_tests([{"input": "1", "output": "2"}, {"input": ["3", "4"], "output": 5}]) == two
    assert read_tests(json.dumps({"inputs": ["1", "3\n4"], "outputs": ["2", "5"]})) == two
    assert read_tests("assert f() == 1\nassert f() == 1") == ["assert f() == 1\nassert f() == 1"]
    for told in (None, "", [], {}, {"inputs": ["1"], "outputs": []}, [1], ["a", {"input": "1"}], 3):
        assert read_tests(told) == []
    assert isinstance(scored(DOUBLE, None), Unscored)


def test_tests_may_be_the_ground_truth_and_some_of_many():
    prompt = Prompt(0, [], "[]", json.dumps([{"input": "2", "output": "4"}, {"input": "2", "output": "5"}]))
    card = Code(tests="ground_truth", max_tests=1)
    assert card.runner().score_one(prompt, Trajectory([], [], DOUBLE, "stop")) == Score(1.0, "1 of 1 tests passed")


def test_this_machine_has_what_the_sandbox_needs():
    assert landlock_version() >= 1
