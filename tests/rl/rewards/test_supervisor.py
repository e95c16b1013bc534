"""Rewards in a process of their own, real and hostile ones: each fault costs its completion, and the others have their scores."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import pytest

from raylm.core.config import Config
from raylm.core.errors import ConfigError
from raylm.rl.rewards.custom import Custom
from raylm.rl.rewards.supervisor import Supervisor
from raylm.rl.types import Prompt, Score, Trajectory

PROMPT = Prompt(0, [1], "[]", None)


class Hostile(Config):
    """Does what the completion says."""

    kind: Literal["hostile"] = "hostile"

    def score(self, prompt: str, completion: str, ground_truth: str | None) -> Any:
        word, _, rest = completion.partition(" ")
        return getattr(self, f"_{word}", lambda rest: float(len(completion)))(rest)

    def _exit(self, rest: str) -> None:
        os._exit(3)

    def _segfault(self, rest: str) -> None:
        os.kill(os.getpid(), signal.SIGSEGV)

    def _thread(self, rest: str) -> float:
        thread = threading.Thread(target=sys.exit, args=(1,))
        thread.start()
        thread.join()
        return 1.0

    def _hang(self, rest: str) -> None:
        while True:
            pass

    def _hog(self, rest: str) -> float:
        return float(len(bytearray(10 << 30)))

    def _leave(self, rest: str) -> None:
        """A process that outlives what began it."""
        child = subprocess.Popen(["sleep", "4242"])
        with open(rest, "w") as file:
            file.write(str(child.pid))
        time.sleep(600)

    def _print(self, rest: str) -> float:
        print("x" * 20_000)
        os.write(1, b"\0" * 10)
        return 1.0

    def _alarm(self, rest: str) -> float:
        def late(*_: Any) -> None:
            raise TimeoutError

        signal.signal(signal.SIGALRM, late)
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        try:
            time.sleep(5)
        except TimeoutError:
            return 0.25
        return 1.0

    def _loop(self, rest: str) -> float:
        async def one() -> float:
            return 1.0

        return asyncio.run(one())

    def _pool(self, rest: str) -> float:
        with multiprocessing.get_context("fork").Pool(2) as pool:
            return float(sum(pool.map(abs, [1, -2])))

    def _threads(self, rest: str) -> float:
        with ThreadPoolExecutor(2) as pool:
            return float(sum(pool.map(abs, [1, -2])))


MET: list[asyncio.Event] = []


async def meet(most: int) -> float:
    """Comes to an end once `most` calls are under way together."""
    mine = asyncio.Event()
    MET.append(mine)
    if len(MET) == most:
        for each in MET:
            each.set()
    await mine.wait()
    return 2.0


class Patient(Config):
    """Async: the others go on while one waits."""

    kind: Literal["patient"] = "patient"
    concurrency: int = 8

    async def score(self, prompt: str, completion: str, ground_truth: str | None) -> float:
        if completion == "stuck":
            time.sleep(600)
        if completion == "exit":
            os._exit(4)
        if completion == "meet":
            return await meet(4)
        await asyncio.sleep(600 if completion == "never" else 0.01)
        return 2.0


class Whole(Config):
    """All completions at once, which may be asked one by one too."""

    kind: Literal["whole"] = "whole"
    splits: bool = True

    def score_group(self, prompt: str, completions: list[str], ground_truth: str | None) -> Any:
        if "exit" in completions:
            os._exit(5)
        return [1.0] * (len(completions) - ("short" in completions))


class Refuses(Config):
    kind: Literal["refuses"] = "refuses"
    needed: int


def custom(name: str, **options: Any) -> Custom:
    return Custom(path=f"{__name__}:{name}", options=options)


@pytest.fixture(scope="module")
def hostile():
    supervisor = Supervisor([custom("Hostile")], timeout_s=1.0, start_s=60.0, memory_bytes=2 << 30)
    yield supervisor
    supervisor.close()


def drawn(texts: list[str]) -> list[Trajectory]:
    return [Trajectory([5], [], text, "stop") for text in texts]


def said(supervisor: Supervisor, texts: list[str]) -> list[Any]:
    """By completion: the score, or why there is none; of several rewards together."""
    found = supervisor.score(PROMPT, drawn(texts)).found
    each = [[one.value if isinstance(one, Score) else one.kind for one in of_card] for of_card in found]
    return each[0] if len(each) == 1 else list(zip(*each, strict=True))


def test_each_fault_costs_its_completion(hostile):
    texts = ["ab", "exit", "abc", "hang", "thread", "hog", "abcd", "segfault", "print", "é\ud83d", "a" * 300_000]
    found = hostile.score(PROMPT, drawn(texts))
    kinds = [one.value if isinstance(one, Score) else one.kind for one in found.found[0]]
    assert kinds == [2.0, "died", 3.0, "timed_out", 1.0, "raised", 4.0, "died", 1.0, 2.0, 300_000.0]
    words = [one.why for one in found.found[0] if not isinstance(one, Score)]
    assert words == [
        "a reward ended its process: exit code 3",
        "a reward did not answer within 1 s",
        "a reward raised MemoryError",
        "a reward ended its process: SIGSEGV",
    ]
    assert found.lost == 3


def test_rewards_may_use_signals_loops_threads_and_processes(hostile):
    assert said(hostile, ["alarm", "loop", "pool", "threads"]) == [0.25, 1.0, 3.0, 3.0]


def test_after_two_hangs_a_prompt_is_given_up_and_the_next_is_asked(hostile):
    assert said(hostile, ["ab", *["hang"] * 5]) == [2.0, *["timed_out"] * 2, *["not_asked"] * 3]
    assert said(hostile, ["ab"]) == [2.0]


def test_what_a_reward_started_ends_with_it(hostile, tmp_path):
    assert said(hostile, [f"leave {tmp_path}/pid"]) == ["timed_out"]
    pid = int((tmp_path / "pid").read_text())
    assert until(lambda: not alive(pid))


def test_nothing_is_left_of_a_supervisor_that_was_killed(tmp_path):
    """As when the actor, or its machine's memory, is lost in the middle of a reward."""
    code = (
        f"import sys; sys.path[:0] = {sys.path!r}\n"
        f"from {__name__} import PROMPT, Supervisor, custom, drawn\n"
        f"Supervisor([custom('Hostile')], 60.0, 60.0).score(PROMPT, drawn(['leave {tmp_path}/pid']))"
    )
    killed = subprocess.Popen([sys.executable, "-c", code])
    pid = until(lambda: int((tmp_path / "pid").read_text() or 0) if (tmp_path / "pid").exists() else 0)
    assert alive(pid)
    killed.kill()
    killed.wait()
    assert until(lambda: not alive(pid))


def test_async_rewards_wait_together_and_each_has_its_deadline():
    supervisor = Supervisor([custom("Patient"), custom("Hostile")], timeout_s=0.5, start_s=60.0)
    assert said(supervisor, ["meet"] * 4) == [(2.0, 4.0)] * 4
    assert said(supervisor, ["ab", "never", "abc"]) == [(2.0, 2.0), ("timed_out", 5.0), (2.0, 3.0)]
    # who holds the interpreter or ends the process is found among those that were under way
    assert said(supervisor, ["ab", "stuck", "abc"]) == [(2.0, 2.0), ("timed_out", 5.0), (2.0, 3.0)]
    assert said(supervisor, ["exit", "ab"])[1] == (2.0, 2.0)
    supervisor.close()


def test_a_process_that_stands_still_between_two_calls_is_ended_and_costs_nothing():
    """None of them has begun, and so none has a deadline of its own."""
    supervisor = Supervisor([custom("Hostile")], timeout_s=60.0, start_s=60.0)
    assert said(supervisor, ["ab"]) == [2.0]
    stopped = until(lambda: supervisor._pid)
    assert stopped > 1
    os.kill(stopped, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as thread:
        found = thread.submit(said, supervisor, ["abc", "abcd"])
        assert until(lambda: supervisor._sent)
        supervisor._heard -= 60.0  # so long ago
        supervisor._ring()
        assert found.result(60.0) == [3.0, 4.0]
    assert supervisor._pid != stopped
    supervisor.close()


def test_a_call_for_all_completions_is_split_where_it_may_be():
    supervisor = Supervisor([custom("Whole"), custom("Whole", splits=False)], timeout_s=5.0, start_s=60.0)
    assert said(supervisor, ["a", "b"]) == [(1.0, 1.0)] * 2
    assert said(supervisor, ["a", "exit", "b"]) == [(1.0, "died"), ("died", "died"), (1.0, "died")]
    assert said(supervisor, ["a", "short"]) == [(1.0, "wrong_length"), ("wrong_length", "wrong_length")]
    supervisor.close()


def test_a_call_that_had_its_answer_is_not_blamed_for_an_end_that_is_seen_with_it():
    """As on a busy machine: the process has answered, begun the next call and ended before anybody looks."""
    supervisor = Supervisor([custom("Whole"), custom("Whole", splits=False)], timeout_s=60.0, start_s=60.0)
    look = supervisor._look

    def late() -> None:
        time.sleep(0.1)
        look()

    supervisor._look = late
    assert said(supervisor, ["a", "exit", "b"]) == [(1.0, "died"), ("died", "died"), (1.0, "died")]
    supervisor.close()


def test_a_reward_that_cannot_be_made_is_an_error_and_not_a_score():
    supervisor = Supervisor([custom("Refuses")], timeout_s=5.0, start_s=60.0)
    with pytest.raises(ConfigError, match="cannot make the custom card"):
        supervisor.score(PROMPT, drawn(["a"]))
    supervisor.close()


def test_rewards_that_are_never_made_leave_no_scores(tmp_path, monkeypatch):
    (tmp_path / "sleeps_at_import.py").write_text("import time\ntime.sleep(600)\n")
    monkeypatch.syspath_prepend(tmp_path)
    supervisor = Supervisor([Custom(path="sleeps_at_import:X")], timeout_s=5.0, start_s=1.0)
    assert said(supervisor, ["a", "b"]) == ["timed_out"] * 2
    supervisor.close()


def test_a_keeper_that_is_killed_is_made_again(hostile):
    hostile._keeper.kill()
    hostile._keeper.wait()
    assert said(hostile, ["ab"]) == [2.0]


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def until(found: Any) -> Any:
    """What `found` gives, once it gives something; for a minute at most."""
    for _ in range(600):
        if value := found():
            return value
        time.sleep(0.1)
    raise AssertionError("nothing came")
