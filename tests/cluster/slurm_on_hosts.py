"""Slurm on hosts made of network namespaces: its controller on the first, a daemon on each; one munge for all of them.

From Debian's packages (`apt-get install --no-install-recommends munge slurmctld slurmd slurm-client`). Nothing of a Slurm
that the machine may have itself is touched: own configuration, key, socket and folders.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType

from tests.cluster.hosts import Hosts

TOOLS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "squeue")
CONF = """
ClusterName=hosts
SlurmctldHost=host0({head})
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={at}/munge.socket
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
StateSaveLocation={at}/state
SlurmctldPidFile={at}/slurmctld.pid
SlurmctldLogFile={at}/slurmctld.log
SlurmdSpoolDir=/mnt/slurmd
SlurmdPidFile=/mnt/slurmd.pid
SlurmdLogFile={at}/slurmd-%n.log
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=20
{nodes}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """Why Slurm cannot be started here; "" where it can."""
    lacking = [tool for tool in TOOLS if shutil.which(tool, path=f"{os.environ['PATH']}:/usr/sbin") is None]
    return f"needs {', '.join(lacking)} (Debian: munge slurmctld slurmd slurm-client)" if lacking else ""


class Slurm:
    """Slurm on hosts.

    Args:
        at: a new folder for its files.
        count: of its machines, the first ones; all hosts where it is not said.
    """

    def __init__(self, hosts: Hosts, at: Path, count: int = 0) -> None:
        self._hosts, self._at, self._count = hosts, at, count or hosts.count
        self._started: list[subprocess.Popen[bytes]] = []
        # Slurm's machines are as large as a job asks for; Ray counts the cores that there are
        nodes = "\n".join(
            f"NodeName=host{n} NodeAddr={hosts.address(n)} CPUs=64 RealMemory=300000 State=UNKNOWN" for n in range(self._count)
        )
        (at / "state").mkdir(parents=True)
        (at / "slurm.conf").write_text(CONF.format(head=hosts.address(0), at=at, nodes=nodes))
        (at / "munge.key").write_bytes(os.urandom(128))
        (at / "munge.key").chmod(0o600)
        self.variables = {"SLURM_CONF": str(at / "slurm.conf"), "PATH": f"{os.environ['PATH']}:/usr/sbin"}

    def __enter__(self) -> Slurm:
        munge = ["munged", "--foreground", "--force", f"--socket={self._at}/munge.socket"]
        munge += [f"--{name}={self._at}/munge.{name[:3]}" for name in ("key-file", "pid-file", "log-file", "seed-file")]
        self._start(0, munge)
        self._start(0, ["slurmctld", "-D", "-f", str(self._at / "slurm.conf")])
        for host in range(self._count):
            self._start(host, ["slurmd", "-D", "-f", str(self._at / "slurm.conf"), "-N", f"host{host}"])
        deadline = time.monotonic() + 60
        while "idle" not in (told := self.run("sinfo", "--noheader", "--format=%T %D")) or f"idle {self._count}" not in told:
            assert time.monotonic() < deadline, told + (self._at / "log").read_text()
            time.sleep(0.5)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for process in reversed(self._started):
            process.terminate()
        for process in self._started:
            process.wait(30)

    def run(self, *command: str) -> str:
        """A command of Slurm's on the first host; what it prints."""
        done = self._hosts.run(0, list(command), 120, **self.variables)
        return done.stdout + done.stderr

    def submit(self, script: Path) -> str:
        """`sbatch` from the script's folder; the job's number."""
        told = self.run("sbatch", "--parsable", f"--chdir={script.parent}", str(script))
        assert told.strip().isdigit(), told
        return told.strip()

    def state(self, job: str) -> str:
        """RUNNING, PENDING, COMPLETED, ..."""
        told = self.run("scontrol", "show", "job", job)
        return next((word.removeprefix("JobState=") for word in told.split() if word.startswith("JobState=")), told)

    def _start(self, host: int, command: list[str]) -> None:
        self._started.append(self._hosts.start(host, command, self._at / "log", **self.variables))
