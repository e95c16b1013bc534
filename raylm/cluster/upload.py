"""What `raylm submit` sends to a cluster: the folder's files without what is secret, large, or made by runs."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from raylm.core.errors import ConfigError

LEFT_OUT = (".git", ".venv", "venv", "__pycache__", "runs", "node_modules", ".pytest_cache", ".ruff_cache", "*.egg-info", "wandb")
SECRET = (".env", ".env.*", "*.pem", "*.key", "id_rsa*", "id_ed25519*", ".netrc", "credentials", "*.kubeconfig", "auth_token")
MOST_FILE_MB, MOST_MB = 50, 200
"""Ray itself refuses more than 500 MB, after it has read all of it."""


class Upload(NamedTuple):
    """Files to send, relative, and what is not sent."""

    files: int
    bytes: int
    excludes: tuple[str, ...]
    """Patterns for Ray, of .gitignore's kind."""
    secrets: tuple[str, ...]
    """Files that look secret and stay here."""


def upload(folder: Path) -> Upload:
    """What would be sent of `folder`.

    Raises:
        ConfigError: a file, or all together, are too large to send with a job.
    """
    ignored = _ignored(folder)
    files, size, secrets, large = 0, 0, list[str](), list[tuple[int, str]]()
    for path in _walk(folder, ignored):
        name = str(path.relative_to(folder))
        if any(fnmatch.fnmatch(path.name, pattern) for pattern in SECRET):
            secrets.append(name)
            continue
        each = path.stat().st_size
        files, size = files + 1, size + each
        if each > MOST_FILE_MB << 20:
            large.append((each, name))
    if large or size > MOST_MB << 20:
        told = ", ".join(f"{name} ({each >> 20} MB)" for each, name in sorted(large, reverse=True)[:3]) or f"{files} files"
        raise ConfigError(
            f"{size >> 20} MB would be sent with the job: {told}",
            where=str(folder),
            next="put data in a bucket or a shared folder; what must stay here goes into .rayignore or .gitignore",
        )
    return Upload(files, size, (*LEFT_OUT, *SECRET), tuple(secrets))


def _walk(folder: Path, ignored: tuple[str, ...]) -> Iterator[Path]:
    for at, folders, files in os.walk(folder):
        here = Path(at)
        folders[:] = [name for name in folders if not _matches(here / name, folder, ignored)]
        yield from (
            here / name for name in files if not (here / name).is_symlink() and not _matches(here / name, folder, ignored)
        )


def _ignored(folder: Path) -> tuple[str, ...]:
    lines = [
        line.strip()
        for name in (".gitignore", ".rayignore")
        if (folder / name).is_file()
        for line in (folder / name).read_text().splitlines()
    ]
    return (*LEFT_OUT, *(line.rstrip("/") for line in lines if line and not line.startswith(("#", "!"))))


def _matches(path: Path, root: Path, patterns: tuple[str, ...]) -> bool:
    whole = str(path.relative_to(root))
    return any(
        fnmatch.fnmatch(whole, pattern.lstrip("/")) if "/" in pattern else fnmatch.fnmatch(path.name, pattern)
        for pattern in patterns
    )
