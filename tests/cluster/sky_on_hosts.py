"""SkyPilot on hosts made of network namespaces: its client and API server on the last one, a laptop; Slurm on the others.

From an environment of its own, which `make sky-test` makes: SkyPilot cannot be installed beside vLLM. The hosts reach nothing but
each other, so what SkyPilot would download onto a machine (uv, its own packages) comes from the folder of that environment.
Home folder, sshd, keys and API server are the hosts' own: nothing of the machine's is touched or seen.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType

from tests.cluster.hosts import Hosts
from tests.cluster.slurm_on_hosts import Slurm

ENVIRONMENT = Path(os.environ.get("RAYLM_SKY", Path.home() / ".cache/raylm/sky"))
"""Where SkyPilot is installed, and below it, in `cache`, uv's copies of all packages that it needs on a machine."""
TOOLS = ("sshd", "ssh", "ssh-keygen", "rsync", "curl")
START_S = 600.0
UV = Path(__file__).resolve().parents[2] / ".venv" / "bin" / "uv"
SSHD = """
Port 22
HostKey {at}/host_key
AuthorizedKeysFile {at}/key.pub
PidFile /mnt/sshd.pid
PermitRootLogin yes
StrictModes no
UsePAM no
SetEnv SLURM_CONF={conf}
Subsystem sftp internal-sftp
"""
SSH = """
Host hosts
    HostName {head}
    Port 22
    User root
    IdentityFile {at}/key
    IdentitiesOnly yes
"""
CURL = """#!/bin/bash
case "$*" in *uv/install.sh*) exec cat {at}/install_uv.sh;; esac
echo "curl: no way out of these hosts" >&2
exit 6
"""
INSTALL_UV = """mkdir -p "$UV_INSTALL_DIR" && cp {at}/uv "$UV_INSTALL_DIR/uv"
"""
OFFLINE_UV = """#!/bin/bash
# the Python of SkyPilot's own environment, whichever one SkyPilot asks for
export UV_OFFLINE=1 UV_CACHE_DIR={cache}
words=()
while [ $# -gt 0 ]; do
    if [ "$1" = --python ] && [ "$2" = 3.10 ]; then words+=(--python {python}); shift 2; else words+=("$1"); shift; fi
done
exec {uv} "${{words[@]}}"
"""


def missing() -> str:
    """Why SkyPilot cannot be started here; "" where it can."""
    lacking = [tool for tool in TOOLS if shutil.which(tool, path=f"{os.environ['PATH']}:/usr/sbin") is None]
    if lacking:
        return f"needs {', '.join(lacking)} (Debian: openssh-server rsync curl)"
    return "" if (ENVIRONMENT / "bin" / "sky").exists() else f"no SkyPilot in {ENVIRONMENT}: `make sky-test` installs it"


class Sky:
    """SkyPilot that knows the Slurm of the hosts as `slurm/hosts`.

    Args:
        at: a new folder for its files.
    """

    def __init__(self, hosts: Hosts, slurm: Slurm, at: Path) -> None:
        self._hosts, self._at, self._laptop = hosts, at, hosts.count - 1
        self._sshd: subprocess.Popen[bytes] | None = None
        home = {"HOME": str(at / "laptop"), "SKYPILOT_DISABLE_USAGE_COLLECTION": "1", "PIP_NO_BUILD_ISOLATION": "0"}
        self._variables = {**home, "PATH": f"{ENVIRONMENT / 'bin'}:{os.environ['PATH']}", "NO_COLOR": "1", "COLUMNS": "200"}
        for folder in ("laptop/.slurm", "laptop/.sky", "home"):
            (at / folder).mkdir(parents=True)
        for name in ("key", "host_key"):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(at / name)]
            subprocess.run(command, check=True)
        found = {
            "at": at,
            "head": hosts.address(0),
            "conf": slurm.variables["SLURM_CONF"],
            "cache": ENVIRONMENT / "cache",
            "python": (ENVIRONMENT / "bin" / "python").resolve(),
            "uv": UV,
        }
        for path, text in {
            "sshd_config": SSHD,
            "laptop/.slurm/config": SSH,
            "curl": CURL,
            "install_uv.sh": INSTALL_UV,
            "uv": OFFLINE_UV,
            # what SkyPilot puts on a machine lies where the other hosts do not see it
            "laptop/.sky/config.yaml": "slurm: {{cluster_configs: {{hosts: {{tmpdir: /mnt}}}}}}\n",
        }.items():
            (at / path).write_text(text.format(**found).lstrip("\n"))
        (at / "uv").chmod(0o755)
        (at / "curl").chmod(0o755)
        lines = Path("/etc/passwd").read_text().splitlines()
        rest = [line for line in lines if not line.startswith("root:")]
        (at / "passwd").write_text("\n".join([f"root:x:0:0:root:{at}/home:/bin/bash", *rest]) + "\n")

    def __enter__(self) -> Sky:
        for host in range(self._hosts.count):
            inside = f"""set -e
                mount --bind {self._at}/passwd /etc/passwd
                mount --bind {self._at}/curl {shutil.which("curl")}
                mount -t tmpfs tmpfs /run; mkdir /run/sshd"""
            done = self._hosts.run(host, ["bash", "-c", inside])
            assert done.returncode == 0, done.stderr
        path = f"{os.environ['PATH']}:/usr/sbin"
        sshd = [str(shutil.which("sshd", path=path)), "-D", "-e", "-f", str(self._at / "sshd_config")]
        self._sshd = self._hosts.start(0, sshd, self._at / "sshd.log")
        # in the background it is given a minute, which a busy machine misses
        words = [str(ENVIRONMENT / "bin" / "sky"), "api", "start", "--foreground"]
        server = self._hosts.start(self._laptop, words, self._at / "server.log", **self._variables)
        health = "import urllib.request; urllib.request.urlopen('http://127.0.0.1:46580/api/health', timeout=10)"
        deadline = time.monotonic() + START_S
        while self._hosts.run(self._laptop, [str(ENVIRONMENT / "bin" / "python"), "-c", health]).returncode:
            assert server.poll() is None and time.monotonic() < deadline, (self._at / "server.log").read_text()
            time.sleep(1)
        checked = self.run("check", "slurm")
        assert "Slurm: enabled" in checked.stdout, checked.stdout + checked.stderr
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        # the laptop sees its own processes alone
        self.run("api", "stop")
        if self._sshd:
            self._sshd.kill()
            self._sshd.wait(10)

    def run(self, *words: str, timeout_s: float = 600.0) -> subprocess.CompletedProcess[str]:
        """`sky WORDS` on the laptop, to its end."""
        command = [str(ENVIRONMENT / "bin" / "sky"), *words]
        return self._hosts.run(self._laptop, command, timeout_s, **self._variables)

    def launch(self, cluster: str, task: Path, log: Path, **secrets: str) -> subprocess.Popen[bytes]:
        """`sky launch` of a task; it ends when the task has ended."""
        given = [word for name in secrets for word in ("--secret", name)]
        command = [str(ENVIRONMENT / "bin" / "sky"), "launch", "-y", "-c", cluster, *given, str(task)]
        return self._hosts.start(self._laptop, command, log, **self._variables, **secrets)
