"""Every job plans, every README block runs or plans, the locks hold what the project asks for."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from raylm import job
from raylm.core import toml

ROOT = Path(__file__).resolve().parents[2]
JOBS = sorted((ROOT / "jobs").glob("*.toml"))
READMES = [ROOT / "README.md", *sorted((ROOT / "raylm").glob("*/README.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(language: str) -> list[tuple[str, str]]:
    return [
        (str(path.relative_to(ROOT)), text)
        for path in READMES
        for kind, text in BLOCK.findall(path.read_text())
        if kind == language
    ]


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.name)
def test_every_job_plans(path, tmp_path):
    loaded = job.load(path, [f"root={tmp_path}"])
    assert {step.state for step in job.plan(loaded)} == {"new"}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("readme", "text"), blocks("toml"))
def test_every_toml_block_is_part_of_a_job_that_plans(readme, text):
    if text.startswith("name ="):
        whole = text
    else:
        # a fragment: one stage, whose inputs are taken from the quickstart
        quickstart = (ROOT / "jobs" / "quickstart.toml").read_text()
        named = re.findall(r"^\[stages\.(\w+)\]", text, re.MULTILINE)
        parts = re.split(r"^(?=\[stages\.)", quickstart, flags=re.MULTILINE)
        whole = "".join(part for part in parts if not any(part.startswith(f"[stages.{name}]") for name in named)) + "\n" + text
    import tomllib

    source = toml.Source(readme, whole)
    job.check_chain(toml.check(job.Job, tomllib.loads(whole), source), source)


@pytest.mark.parametrize(("readme", "text"), blocks("bash"))
def test_every_bash_block_is_a_command_that_exists(readme, text):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in text.splitlines():
        line = line.split("#")[0].strip()
        words = line.split()
        if not words:
            continue
        if words[0] == "make":
            assert words[1] in targets, f"{readme}: {line}"
        elif words[0].endswith("raylm"):
            from raylm.cli import _parser

            _parser().parse_args(words[1:])
            for word in words:
                assert not word.endswith(".toml") or (ROOT / word).is_file(), f"{readme}: {line}"
        else:
            known = ("git", "cd", "curl", "ray", "pip", "sky", "source", "export", ".venv/bin/uv", "uv")
            assert words[0] in known, f"{readme}: {line}"


def test_every_python_block_compiles():
    for readme, text in blocks("python"):
        compile(text, readme, "exec")


def test_the_environment_is_the_lock():
    """What is installed is what the lock says: no silent step back to an old major version."""
    from importlib import metadata

    from packaging.markers import Marker

    lock = "gpu" if "vllm" in {found.name for found in metadata.distributions()} else "cpu"
    for line in (ROOT / "cluster" / "locks" / f"{lock}.txt").read_text().splitlines():
        requirement, _, marker = line.partition(";")
        name, _, version = requirement.strip().partition("==")
        assert re.fullmatch(r"[A-Za-z0-9_.\-\[\]]+", name), line
        if marker and not Marker(marker.strip()).evaluate():
            continue  # a package for another platform
        have = metadata.version(name.split("[")[0])
        assert have.split("+")[0] == version.split("+")[0], f"{name} is {have}, the lock says {version}"


@pytest.mark.parametrize("lock", ["cpu", "gpu"])
def test_locks_hold_the_versions_that_the_project_asks_for(lock):
    import tomllib

    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = dict(
        line.split(";")[0].strip().split("==") for line in (ROOT / "cluster" / "locks" / f"{lock}.txt").read_text().splitlines()
    )
    pinned = {name.split("[")[0]: version for name, version in pinned.items()}
    extras = project["optional-dependencies"]
    for text in [*project["dependencies"], *extras["stages"], *extras["watch"], *extras[lock], *extras["dev"]]:
        wanted = Requirement(text)
        if wanted.name != "raylm":
            assert wanted.specifier.contains(pinned[wanted.name].split("+")[0]), f"{wanted}: {pinned[wanted.name]}"


def test_plan_needs_no_torch_and_no_ray(tmp_path):
    """`raylm plan` in a Python whose imports of torch, ray and vllm fail."""
    code = (
        "import sys\n"
        "class No:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('torch', 'ray', 'vllm', 'transformers', 'pyarrow', 'numpy'):\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, No())\n"
        "from raylm.cli import main\n"
        f"sys.exit(main(['plan', 'jobs/quickstart.toml', '--set', 'root={tmp_path}']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert "next: raylm run" in done.stdout
