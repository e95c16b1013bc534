"""The supervisor of rewards that run in a process of their own: one that hangs or ends the process costs the completion that it
was asked about, and the others go on in a fresh process."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from multiprocessing.connection import Connection, wait
from pickle import UnpicklingError
from queue import SimpleQueue
from typing import Any, NamedTuple

from raylm.core.errors import RaylmError, StageError
from raylm.rl.rewards.calling import Calling
from raylm.rl.rewards.process import NOTICE, Ask, Setup
from raylm.rl.types import Prompt, Score, Trajectory, Unscored

MOST_HUNG = 2
"""Times that one reward hangs on completions of one prompt, after which it is not asked about the rest of them."""
MOST_FRUITLESS = 2
"""Processes in a row that end without having answered or being asked anything, after which what waits has no scores."""
HUNG = "timed_out"
"""Why a completion has no score that a reward hung on."""
GRACE_S = 1.0
"""Seconds beyond its deadline that an async reward has to be cancelled, before its process is ended."""

Found = Score | Unscored


class Answered(NamedTuple):
    """What the rewards said of the completions of one prompt."""

    found: list[list[Found]]
    """By reward, then by completion."""
    lost: int
    """Processes that it cost."""


class _Group:
    """The completions of one prompt, until all rewards have answered."""

    def __init__(self, prompt: Prompt, drawn: list[Trajectory], cards: int) -> None:
        self.prompt, self.drawn = prompt, drawn
        self.found: list[list[Any]] = [[None] * len(drawn) for _ in range(cards)]
        self.left, self.lost, self.hung = cards * len(drawn), 0, Counter[int]()
        self.done = threading.Event()
        self.error: RaylmError | None = None

    def calls(self, hows: list[Calling]) -> list[_Call]:
        """What to ask of rewards that are called like this."""
        every = list(range(len(self.drawn)))
        places = [[every] if how.whole else [[place] for place in every] for how in hows]
        return [_Call(self, card, each) for card, of_card in enumerate(places) for each in of_card]

    def take(self, card: int, places: list[int], found: list[Found]) -> None:
        """What reward `card` says of the completions at `places`."""
        for place, one in zip(places, found, strict=True):
            self.found[card][place] = one
        self.left -= len(places)
        if self.left == 0:
            self.done.set()

    def fail(self, error: RaylmError) -> None:
        """There will be no answer."""
        self.error = error
        self.done.set()


class _Call:
    """One call of one reward, about one completion or several."""

    def __init__(self, group: _Group, card: int, places: list[int], alone: bool = False) -> None:
        self.group, self.card, self.places, self.alone = group, card, places, alone
        self.until: float | None = None
        """When it must have ended; None until it has begun."""

    def take(self, found: list[Found]) -> None:
        self.group.take(self.card, self.places, found)

    def fail(self, why: Unscored) -> None:
        self.take([why] * len(self.places))


class Supervisor:
    """Rewards in a process that is made again when it ends or hangs. `score` may be called from several threads.

    Args:
        cards: the rewards as the job names them; somebody else's code is imported in the process alone.
        timeout_s: seconds for each call of a reward.
        start_s: seconds in which a process must have made its rewards, and, when it has nothing else to do, must begin a call.
        memory_bytes: most memory of the process; half of the machine's where nothing is said.
    """

    def __init__(self, cards: list[Any], timeout_s: float, start_s: float, memory_bytes: int | None = None) -> None:
        self._setup, self._timeout_s, self._start_s = Setup(cards, timeout_s, memory_bytes), timeout_s, start_s
        self._hows: list[Calling] = []
        self._groups, self._todo = deque[_Group](), deque[_Call]()
        self._sent: dict[int, _Call] = {}
        self._number = self._fruitless = self._pid = 0
        self._keeper: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._data: Connection | None = None
        self._line: socket.socket | None = None
        self._post: threading.Thread | None = None
        self._ready_by: float | None = None
        self._heard = 0.0
        """When the process said something last, or was asked something while it had nothing to do."""
        self._dying = self._closed = False
        self._letters: SimpleQueue[Any] = SimpleQueue()
        self._bell, self._rung = os.pipe()
        os.set_blocking(self._rung, False)
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def score(self, prompt: Prompt, drawn: list[Trajectory]) -> Answered:
        """What each reward says of each trajectory.

        Raises:
            ConfigError: a reward cannot be made.
            StageError: the supervisor itself has ended.
        """
        group = _Group(prompt, drawn, len(self._setup.cards))
        if group.left:
            self._groups.append(group)
            self._ring()
            while not group.done.wait(1.0):
                self.check()
        if group.error is not None:
            raise group.error
        return Answered(group.found, group.lost)

    def check(self) -> None:
        """Raises StageError where the supervisor itself has ended, which no reward can bring about."""
        if not self._thread.is_alive():
            raise StageError("the supervisor of the rewards' process has ended", where="rewards", next="see its log")

    def close(self) -> None:
        """End the processes."""
        self._closed = True
        self._ring()
        self._thread.join()

    def _ring(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._rung, b"!")

    def _watch(self) -> None:
        try:
            self._begin_life()
            while not self._closed:
                self._feed()
                self._look()
        finally:
            self._end_life()
            if self._control is not None and self._keeper is not None:
                self._control.close()  # the keeper ends with it
                self._keeper.wait()

    def _look(self) -> None:
        """Wait for a message, an end or a deadline, and act on it."""
        times = [call.until for call in self._sent.values() if call.until is not None]
        times += [by for by in (self._ready_by, self._begins_by()) if by is not None]
        patience = max(min(times) - time.monotonic(), 0.0) if times else None
        ready = wait([each for each in (self._bell, self._data, self._control) if each is not None], patience)
        if self._bell in ready:
            os.read(self._bell, 4096)
        # all that the process has said, before its end is noticed or a deadline: else a call that had its answer would be blamed
        most = 2 * len(self._sent) + 2
        while self._data is not None and most and (self._data in ready or self._data.poll()):
            ready = [each for each in ready if each is not self._data]
            self._hear(self._data)
            most -= 1
        if self._control is not None and self._control in ready:
            self._notice(self._control)
        self._check_deadlines()

    def _feed(self) -> None:
        """Send what there is to ask. A call that must be alone waits until nothing else is under way, and the others for it."""
        if (self._todo or self._groups) and self._data is None and not self._dying:
            self._begin_life()
        if self._data is None or self._ready_by is not None:
            return
        while self._groups:
            self._todo.extend(self._groups.popleft().calls(self._hows))
        while self._todo:
            call = self._todo[0]
            if (call.alone and self._sent) or any(each.alone for each in self._sent.values()):
                return
            self._todo.popleft()
            self._number += 1
            if not self._sent:
                self._heard = time.monotonic()
            self._sent[self._number] = call
            drawn = [call.group.drawn[place] for place in call.places]
            self._letters.put(Ask(self._number, call.card, call.group.prompt, drawn))

    def _begin_life(self) -> None:
        if self._keeper is None or self._control is None:
            self._keeper, self._control = _start_keeper()
        ours, theirs = socket.socketpair()
        with contextlib.suppress(BrokenPipeError):  # the keeper's end is noticed
            socket.send_fds(self._control, [b"f"], [theirs.fileno()])
        theirs.close()
        self._line, self._data, self._letters = ours, Connection(os.dup(ours.fileno())), SimpleQueue()
        self._ready_by = time.monotonic() + self._start_s
        self._letters.put(self._setup)
        # a process that does not read must not keep this thread from seeing that it hangs
        self._post = threading.Thread(target=_post, args=(self._data, self._letters), daemon=True)
        self._post.start()

    def _hear(self, data: Connection) -> None:
        """One message of the process."""
        try:
            word, *rest = data.recv()
        except (EOFError, OSError, UnpicklingError, ValueError):
            # it ended, or somebody wrote into what is not theirs: the keeper will say how it ended
            self._hang_up()
            self._kill()
            self._dying = True
            return
        self._heard = time.monotonic()
        if word == "ready":
            self._ready_by, self._hows = None, rest[0]
        elif word == "begin":
            call = self._sent[rest[0]]
            call.until = time.monotonic() + self._seconds(call) + (GRACE_S if self._hows[call.card].is_async else 0.0)
        elif word == "end":
            self._fruitless = 0
            self._sent.pop(rest[0]).take(rest[1])
        elif word == "refused":
            self._refuse(rest[0])

    def _seconds(self, call: _Call) -> float:
        return self._hows[call.card].deadline_s or self._timeout_s

    def _notice(self, control: socket.socket) -> None:
        """The keeper says that a child has begun, or how one ended."""
        try:
            notice = control.recv(NOTICE.size)
        except OSError:
            notice = b""
        if not notice:
            control.close()
            self._control = None
            self._lose(Unscored("died", "the process that keeps the rewards' process was ended"), self._begun())
            return
        pid, status = NOTICE.unpack(notice)
        if status == -1:
            self._pid = pid
        elif pid == self._pid:
            self._lose(Unscored("died", f"a reward ended its process: {_how(status)}"), self._begun())

    def _begun(self) -> list[_Call]:
        return [call for call in self._sent.values() if call.until is not None]

    def _begins_by(self) -> float | None:
        """When one of the calls that were sent must have begun; None where one has, or none can."""
        idle = self._sent and self._data is not None and self._ready_by is None and not self._begun()
        return self._heard + self._start_s if idle else None

    def _check_deadlines(self) -> None:
        now = time.monotonic()
        begins_by = self._begins_by()
        if begins_by is not None and now >= begins_by:
            self._lose(Unscored(HUNG, f"the rewards' process took up no call for {self._start_s:g} s"), [])
            return
        if self._ready_by is not None and now >= self._ready_by:
            self._lose(Unscored(HUNG, f"the rewards were not made within {self._start_s:g} s"), [])
            return
        late = [call for call in self._begun() if call.until is not None and now >= call.until]
        if late:
            why = Unscored(HUNG, f"a reward did not answer within {self._seconds(late[0]):g} s")
            # an async one is cancelled in its process; where that did not help, another may hold the interpreter
            stuck = any(self._hows[call.card].is_async for call in late)
            self._lose(why, self._begun() if stuck else late)

    def _lose(self, why: Unscored, suspects: list[_Call]) -> None:
        """The process ended, or is ended: what it was doing is to blame; what else it was asked is asked again."""
        again = [call for call in self._sent.values() if call not in suspects]
        self._end_life()
        for call in again:
            call.until = None
        self._todo.extendleft(reversed(again))
        for group in {call.group for call in suspects}:
            group.lost += 1
        if len(suspects) == 1:
            self._charge(suspects[0], why)
        elif suspects:
            # only one of them was it: each is asked again, alone
            self._todo.extendleft(_Call(call.group, call.card, call.places, alone=True) for call in reversed(suspects))
        else:
            self._fruitless += 1
            if self._fruitless >= MOST_FRUITLESS:
                self._give_up(why)

    def _charge(self, call: _Call, why: Unscored) -> None:
        """This call ended or hung its process."""
        group, card = call.group, call.card
        if len(call.places) > 1 and self._hows[card].splits:
            self._todo.extendleft(_Call(group, card, [place], alone=call.alone) for place in reversed(call.places))
            return
        call.fail(why)
        group.hung[card] += why.kind == HUNG
        if group.hung[card] < MOST_HUNG:
            return
        rest = [each for each in self._todo if each.group is group and each.card == card]
        self._todo = deque(each for each in self._todo if each not in rest)
        for each in rest:
            each.fail(Unscored("not_asked", f"{why.why}, about {MOST_HUNG} completions of this prompt"))

    def _give_up(self, why: Unscored) -> None:
        """No process comes to anything: what was asked has no scores."""
        self._fruitless = 0
        waiting, self._todo = list(self._todo), deque()
        for call in waiting:
            call.group.lost += 1
            call.fail(why)
        while self._groups:
            group = self._groups.popleft()
            group.lost += 1
            for card in range(len(self._setup.cards)):
                group.take(card, list(range(len(group.drawn))), [why] * len(group.drawn))

    def _refuse(self, error: RaylmError) -> None:
        """A reward cannot be made: nothing can be scored."""
        groups = [call.group for call in (*self._sent.values(), *self._todo)]
        self._end_life()
        self._todo.clear()
        while self._groups:
            groups.append(self._groups.popleft())
        for group in groups:
            group.fail(error)

    def _kill(self) -> None:
        if self._pid:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._pid, signal.SIGKILL)

    def _end_life(self) -> None:
        self._kill()
        self._hang_up()
        self._ready_by, self._pid, self._dying = None, 0, False
        self._sent.clear()

    def _hang_up(self) -> None:
        if self._data is None or self._line is None or self._post is None:
            return
        # who still writes must have ended before the descriptor's number can be another's
        with contextlib.suppress(OSError):
            self._line.shutdown(socket.SHUT_RDWR)
        self._letters.put(None)
        self._post.join()
        self._data.close()
        self._line.close()
        self._data = None


def _start_keeper() -> tuple[subprocess.Popen[bytes], socket.socket]:
    ours, theirs = socket.socketpair()
    code = f"from raylm.rl.rewards.process import keep; keep({theirs.fileno()})"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(each for each in sys.path if each)}
    keeper = subprocess.Popen(
        [sys.executable, "-c", code],
        pass_fds=[theirs.fileno()],
        env=environment,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    theirs.close()
    return keeper, ours


def _post(data: Connection, letters: SimpleQueue[Any]) -> None:
    """Send letters until there is none, or nobody takes them."""
    while (letter := letters.get()) is not None:
        try:
            data.send(letter)
        except OSError:
            return


def _how(status: int) -> str:
    """How a process ended, by what `os.waitpid` says."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"exit code {code}"
    return signal.Signals(-code).name + (" (out of memory?)" if -code == signal.SIGKILL else "")
