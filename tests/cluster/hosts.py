"""Several hosts on one machine: a network namespace each, on one bridge, with own mounts, host name and process tree.

One process is the root of everything that runs on a host: its death is the loss of the machine. A pulled cable is a link that is
down: no reset is sent, as with a real one. Needs root and Linux; nothing of the machine's own network is touched.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

NET = "10.77"
SWITCH_HOST = 254


def cannot() -> str:
    """Why no hosts can be made here; "" where they can."""
    if os.geteuid() != 0:
        return "needs root"
    if missing := [tool for tool in ("ip", "nsenter", "setpriv", "unshare") if shutil.which(tool) is None]:
        return f"needs {', '.join(missing)}"
    name = f"rl-try-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    return "" if made.returncode == 0 else f"no network namespaces here: {made.stderr.strip()}"


class Hosts:
    """`count` hosts, 10.77.N.1 and up, which reach each other and a switch namespace (10.77.N.254), and nothing else.

    Args:
        folder: a new folder for what is the hosts' own: their /mnt, which TMPDIR names there.
        disk_mb: size of each host's own disk; 0 leaves it to the machine's.
    """

    def __init__(self, count: int, folder: Path, disk_mb: int = 0) -> None:
        self.count, self.folder, self._disk_mb = count, folder, disk_mb
        # several test processes have hosts at the same time: their names must differ, their addresses may not meet
        self._tag = f"rl{os.getpid() % 100_000}"
        self._net = f"{NET}.{os.getpid() % 250}"
        self._roots: dict[int, subprocess.Popen[bytes]] = {}

    def address(self, host: int) -> str:
        """Of a host, counted from 0."""
        return f"{self._net}.{host + 1}"

    def __enter__(self) -> Hosts:
        switch = f"{self._tag}-sw"
        _do("ip", "netns", "add", switch)
        self._in_switch("ip", "link", "add", "br0", "type", "bridge")
        self._in_switch("ip", "addr", "add", f"{self._net}.{SWITCH_HOST}/24", "dev", "br0")
        self._in_switch("ip", "link", "set", "br0", "up")
        self._in_switch("ip", "link", "set", "lo", "up")
        names = "".join(f"{self.address(n)} host{n}\n" for n in range(self.count))
        (self.folder / "hosts").write_text(f"127.0.0.1 localhost\n{names}")
        for host in range(self.count):
            self.boot(host)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for host in list(self._roots):
            self.kill(host)
        for host in range(self.count):
            subprocess.run(["ip", "netns", "del", f"{self._tag}-{host}"], capture_output=True, check=False)
        subprocess.run(["ip", "netns", "del", f"{self._tag}-sw"], capture_output=True, check=False)

    def boot(self, host: int) -> None:
        """A host, without anything that runs on it but its first process."""
        name, own = f"{self._tag}-{host}", self.folder / f"host{host}"
        subprocess.run(["ip", "-n", f"{self._tag}-sw", "link", "del", f"p{host}"], capture_output=True, check=False)
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
        _do("ip", "netns", "add", name)
        _do("ip", "link", "add", "eth0", "netns", name, "type", "veth", "peer", "name", f"p{host}", "netns", f"{self._tag}-sw")
        self._in_switch("ip", "link", "set", f"p{host}", "master", "br0")
        self._in_switch("ip", "link", "set", f"p{host}", "up")
        for words in (["addr", "add", f"{self.address(host)}/24", "dev", "eth0"], ["link", "set", "eth0", "up"]):
            _do("ip", "-n", name, *words)
        _do("ip", "-n", name, "link", "set", "lo", "up")
        shutil.rmtree(own, ignore_errors=True)
        own.mkdir(mode=0o777)
        inside = f"""
            hostname host{host}; mount --make-rprivate /
            mount --bind {self.folder}/hosts /etc/hosts
            mount --bind {own} /mnt; mount -t tmpfs -o size=1500m tmpfs /dev/shm
            [ {self._disk_mb} = 0 ] || mount -t tmpfs -o size={self._disk_mb}m tmpfs /mnt
            touch {own}/.up; exec sleep infinity
        """
        # it goes with this process, whatever ends that
        entered = [
            "setpriv",
            "--pdeathsig",
            "KILL",
            "nsenter",
            f"--net=/run/netns/{name}",
            "unshare",
            "--mount",
            "--uts",
            "--ipc",
            "--pid",
            "--fork",
        ]
        self._roots[host] = subprocess.Popen([*entered, "--kill-child", "--mount-proc", "bash", "-c", inside])
        deadline = time.monotonic() + 20
        while not (own / ".up").exists():
            assert time.monotonic() < deadline, f"host {host} did not come up"
            time.sleep(0.05)

    def start(self, host: int, command: list[str], log: Path, **variables: str) -> subprocess.Popen[bytes]:
        """Run a command on a host, its output in `log`."""
        environ = {**os.environ, "TMPDIR": "/mnt", **variables}
        with log.open("ab") as out:
            return subprocess.Popen(self._on(host, command), env=environ, stdout=out, stderr=out)

    def run(self, host: int, command: list[str], timeout_s: float = 120, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command on a host to its end."""
        environ = {**os.environ, "TMPDIR": "/mnt", **variables}
        words = self._on(host, command)
        return subprocess.run(words, env=environ, capture_output=True, text=True, timeout=timeout_s, check=False)

    def kill(self, host: int) -> None:
        """The machine is gone, with all that runs on it."""
        root = self._roots.pop(host)
        child = self._first(root)
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        root.kill()
        root.wait(10)

    def cable(self, host: int, plugged: bool) -> None:
        """Pull the host's cable, or put it back."""
        self._in_switch("ip", "link", "set", f"p{host}", "up" if plugged else "down")

    @contextmanager
    def bucket(self, name: str) -> Iterator[dict[str, str]]:
        """An S3 server on the switch, which all hosts reach, with an empty bucket; what their environment must say of it."""
        at = f"{self._net}.{SWITCH_HOST}"
        inside = ["ip", "netns", "exec", f"{self._tag}-sw", sys.executable]
        keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
        variables = {**keys, "AWS_ENDPOINT_URL": f"http://{at}:5000"}
        make = f"import boto3; boto3.client('s3').create_bucket(Bucket={name!r})"
        nowhere = subprocess.DEVNULL
        server = subprocess.Popen([*inside, "-m", "moto.server", "-H", at, "-p", "5000"], stdout=nowhere, stderr=nowhere)
        try:
            deadline = time.monotonic() + 60
            while subprocess.run([*inside, "-c", make], env={**os.environ, **variables}, stderr=nowhere, check=False).returncode:
                assert time.monotonic() < deadline and server.poll() is None, "the S3 server did not come"
            yield variables
        finally:
            server.kill()
            server.wait(10)

    def cpu_s(self) -> float:
        """CPU seconds that processes of all hosts have spent, those that ended and were waited for too."""
        spaces = {os.readlink(f"/proc/{self._first(root)}/ns/pid") for root in self._roots.values()}
        ticks = 0
        for entry in Path("/proc").iterdir():
            with suppress(OSError, ValueError):
                if entry.name.isdigit() and os.readlink(entry / "ns" / "pid") in spaces:
                    ticks += sum(int(field) for field in (entry / "stat").read_text().rpartition(")")[2].split()[11:15])
        return ticks / os.sysconf("SC_CLK_TCK")

    def moved_bytes(self) -> int:
        """Bytes that all hosts have sent over their cables."""
        total = 0
        for root in self._roots.values():
            lines = Path(f"/proc/{self._first(root)}/net/dev").read_text().splitlines()
            total += sum(int(line.split(":")[1].split()[8]) for line in lines if line.strip().startswith("eth0:"))
        return total

    def _on(self, host: int, command: list[str]) -> list[str]:
        at = str(self._first(self._roots[host]))
        return ["nsenter", "-t", at, "-n", "-m", "-u", "-i", "-p", f"--wd={os.getcwd()}", *command]

    def _first(self, root: subprocess.Popen[bytes]) -> int:
        """The process that is number 1 on the host."""
        children = Path(f"/proc/{root.pid}/task/{root.pid}/children").read_text().split()
        return int(children[0])

    def _in_switch(self, *command: str) -> None:
        _do("ip", "netns", "exec", f"{self._tag}-sw", *command)


def _do(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
