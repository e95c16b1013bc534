"""What a model wrote, run where it can harm nothing: the part of the sandbox that runs inside, with the standard library alone.

It may compute, read the Python that it runs on, and write to its standard output. It may not open a socket, begin a process or a
program, write or remove a file, signal or inspect a process, nor raise its limits: seccomp (system calls), Landlock (files) and
rlimits (memory, CPU time, output) are set before its first line runs, and hold for root too.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import resource
import signal
import struct
import sys
from collections.abc import Iterable
from typing import Any

MACHINE = "x86_64"
AUDIT_ARCH = 0xC000003E
ALLOW, KILL, DENY, NO_SUCH_CALL = 0x7FFF0000, 0x80000000, 0x00050000 | 1, 0x00050000 | 38
LOAD, EQUALS, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
NUMBER, ARCH, ARGUMENTS = 0, 4, 16
CLONE_THREAD, WRITES = 0x10000, 0o3 | 0o100 | 0o1000 | 0o20000000
"""A thread of this process; what a call to open may not ask for: to write, create, truncate, or a file without a name."""
CLONE, CLONE3, OPEN, OPENAT, OPENAT2, PRCTL = 56, 435, 2, 257, 437, 157
DEATH_SIGNAL = 1
"""Of prctl: what ends a program with its judge, and its judge with this process."""

# numbers of system calls on x86-64 (linux/arch/x86/entry/syscalls/syscall_64.tbl)
DENIED = {
    "network": (41, 42, 49, 50),  # socket connect bind listen
    "processes": (57, 58, 59, 322),  # fork vfork execve execveat
    "signals to others": (62, 200, 234, 129, 297, 424, 434, 438),  # kill tkill tgkill *sigqueueinfo pidfd_*
    "memory of others": (101, 310, 311, 312, 440, 448, 256, 279),  # ptrace process_vm_* kcmp process_m* *_pages
    "groups, limits, priorities": (112, 109, 160, 302, 141, 203, 144, 142, 314, 251),
    "files": (85, 76, 87, 263, 82, 264, 316, 83, 258, 84, 86, 265, 88, 266, 133, 259, 303, 304),
    "owners, modes, times": (90, 91, 268, 452, 92, 93, 94, 260, 132, 235, 261, 280, 188, 189, 190, 197, 198, 199, 463, 466),
    "mounts and namespaces": (165, 166, 155, 161, 272, 308, 428, 429, 430, 431, 432, 433, 442),
    "memory that outlives it": (319, 447, 29, 30, 68, 64, 240),  # memfd_* shmget shmat msgget semget mq_open
    "kernel": (425, 426, 427, 321, 298, 323, 250, 248, 249, 169, 170, 171, 167, 168, 164, 227, 159, 305, 175, 313, 176, 246, 320,
               103, 163, 179, 172, 173, 135, 300, 301),
}  # fmt: skip

READABLE = ("/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/localtime", "/dev/null", "/dev/urandom", "/dev/zero")


def confine(
    readable: Iterable[str], memory_bytes: int, cpu_s: int, output_bytes: int, landlock: bool = True, alone: bool = True
) -> None:
    """Set all limits, for good.

    Args:
        alone: its signals reach nobody outside; what is to end with it is not ended either then.

    Raises:
        OSError: this kernel cannot.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if sys.platform != "linux" or platform.machine() != MACHINE:
        raise OSError(f"code can be run on Linux on {MACHINE} alone, this is {sys.platform} on {platform.machine()}")
    _done(libc.prctl(DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0), "prctl(PR_SET_PDEATHSIG)")
    for what, most in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_FSIZE, output_bytes),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (most, most))
    _done(libc.prctl(38, 1, 0, 0, 0), "prctl(PR_SET_NO_NEW_PRIVS)")
    if landlock:
        _landlock(libc, [*readable, *READABLE], alone)
    _seccomp(libc)


def landlock_version() -> int:
    """Of this kernel; 0 where it has none."""
    return max(ctypes.CDLL(None, use_errno=True).syscall(444, None, 0, 1), 0)


def _landlock(libc: Any, readable: list[str], alone: bool) -> None:
    """Files outside of `readable` do not open (linux/include/uapi/linux/landlock.h)."""
    version = landlock_version()
    if version < 1:
        raise OSError("this kernel has no Landlock, which keeps code from reading files (Linux 5.13 and newer have it)")
    rights = (1 << (13 + (version >= 2) + (version >= 3) + (version >= 5))) - 1
    # from version 4 on TCP, from 6 on abstract sockets and signals
    rules = struct.pack("QQQ", rights, 3 if version >= 4 else 0, (3 if alone else 1) if version >= 6 else 0)
    size = 8 if version < 4 else 16 if version < 6 else 24
    ruleset = libc.syscall(444, rules, size, 0)
    _done(ruleset, "landlock_create_ruleset")
    for path in dict.fromkeys(map(os.path.realpath, readable)):
        try:
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        allowed = 0b1101 if os.path.isdir(path) else 0b101  # execute, read files, read folders
        _done(libc.syscall(445, ruleset, 1, struct.pack("=Qi", allowed, place), 0), "landlock_add_rule")
        os.close(place)
    _done(libc.syscall(446, ruleset, 0), "landlock_restrict_self")
    os.close(ruleset)


def _seccomp(libc: Any) -> None:
    program = _assembled()
    code = b"".join(struct.pack("HBBI", *one) for one in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    head = struct.pack("HxxxxxxP", len(program), ctypes.addressof(buffer))
    _done(libc.prctl(22, 2, head, 0, 0), "prctl(PR_SET_SECCOMP)")


def _assembled() -> list[tuple[int, int, int, int]]:
    """The filter: (operation, jump if true, jump if false, operand). Jumps are named by what they lead to."""
    lines: list[tuple[int, str | int, str | int, int]] = [
        (LOAD, 0, 0, ARCH),
        (EQUALS, 0, "kill", AUDIT_ARCH),
        (LOAD, 0, 0, NUMBER),
        (AT_LEAST, "deny", 0, 0x40000000),  # the calls of another interface
        (EQUALS, "clone", 0, CLONE),
        (EQUALS, "open", 0, OPEN),
        (EQUALS, "openat", 0, OPENAT),
        (EQUALS, "prctl", 0, PRCTL),
        (EQUALS, "none", 0, CLONE3),  # the C library then takes clone, whose flags can be read here
        (EQUALS, "none", 0, OPENAT2),
        *((EQUALS, "deny", 0, number) for numbers in DENIED.values() for number in numbers),
    ]
    places, end = {}, len(lines)
    for name, block in {
        "allow": [(RETURN, 0, 0, ALLOW)],
        "clone": [(LOAD, 0, 0, ARGUMENTS), (ANY_BIT, "allowed", "deny", CLONE_THREAD)],
        "open": [(LOAD, 0, 0, ARGUMENTS + 8), (ANY_BIT, "deny", "allowed", WRITES)],
        "openat": [(LOAD, 0, 0, ARGUMENTS + 16), (ANY_BIT, "deny", "allowed", WRITES)],
        "prctl": [(LOAD, 0, 0, ARGUMENTS), (EQUALS, "deny", "allowed", DEATH_SIGNAL)],
        "allowed": [(RETURN, 0, 0, ALLOW)],
        "deny": [(RETURN, 0, 0, DENY)],
        "none": [(RETURN, 0, 0, NO_SUCH_CALL)],
        "kill": [(RETURN, 0, 0, KILL)],
    }.items():
        places[name] = len(lines)
        lines += block
    assert places["allow"] == end

    def jump(to: str | int, at: int) -> int:
        return places[to] - at - 1 if isinstance(to, str) else to

    return [(what, jump(yes, at), jump(no, at), operand) for at, (what, yes, no, operand) in enumerate(lines)]


def _done(result: int, what: str) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def main() -> None:
    """Run the program that descriptor 3 tells of, and judge it by the checks on 5; what came of them goes to descriptor 4."""
    with open(3, "rb") as file:
        task = json.loads(file.read())
    if task["judged"]:
        _judge(task)
        return
    os.close(5)
    _confine_or_leave(task)
    os.close(4)
    exec(compile(task["source"], "<completion>", "exec"), {"__name__": "__main__", "__builtins__": __builtins__})


def _judge(task: dict[str, Any]) -> None:
    """The program in a process of its own, which knows neither the checks nor where the verdict goes; here, what judges it."""
    sys.path.insert(0, os.path.abspath(f"{os.path.dirname(__file__)}/../../.."))
    from raylm.data.programs import judge

    sys.path.pop(0)
    (asked, asks), (heard, answers) = os.pipe(), os.pipe()
    if not (program := os.fork()):
        for descriptor in (4, 5, asks, heard):
            os.close(descriptor)
        confine(*_limits(task))
        # before its judge is out of reach it does not begin, and without one it does not either
        if not os.read(asked, 1):
            os._exit(0)
        names = {"__name__": "__main__", "__builtins__": __builtins__}
        exec(compile(task["source"], "<completion>", "exec"), names)
        sys.stdout.flush()
        try:
            judge.Judged(asked, answers, names).serve_all()
        except judge.Gone:
            os._exit(0)
    os.close(asked)
    os.close(answers)
    with open(5, "rb") as file:
        told = json.loads(file.read())
    # memory of this process is not for the program to read, where it may read files
    ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)
    _confine_or_leave(task, told["word"])
    try:
        os.write(asks, b"!")
        judged = judge.Judge(heard, asks)
        judged.receive()
        verdict = {"failed": judged.judge(told["checks"])}
    except judge.Gone:
        os.close(asks)
        verdict = {"ended": judge.ended(os.waitpid(program, 0)[1])}
    sys.stdout.flush()
    os.write(4, json.dumps({"word": told["word"], **verdict}).encode())
    os._exit(0)


def _limits(task: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(task[name] for name in ("readable", "memory_bytes", "cpu_s", "output_bytes", "landlock"))


def _confine_or_leave(task: dict[str, Any], word: str = "") -> None:
    try:
        # its program ends with it, by a signal
        confine(*_limits(task), alone=not task["judged"])
    except OSError as cause:
        os.write(4, json.dumps({"word": word or task["word"], "refused": str(cause)}).encode())
        os._exit(0)


if __name__ == "__main__":
    main()
