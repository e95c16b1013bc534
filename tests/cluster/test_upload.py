"""What is sent of a folder with a job."""

from __future__ import annotations

import pytest

from raylm.cluster.upload import MOST_FILE_MB, upload
from raylm.core.errors import ConfigError


def test_secrets_and_what_runs_made_stay_here(tmp_path):
    for name in ("jobs/a.toml", ".env", "deploy/server.key", "runs/a/run.json", ".venv/x", "data/raw.bin", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("12345")
    (tmp_path / ".gitignore").write_text("# large\ndata/\n")
    sent = upload(tmp_path)
    assert (sent.files, sent.bytes) == (3, 10 + len("# large\ndata/\n"))
    assert set(sent.secrets) == {".env", "deploy/server.key"}
    assert {".env", "runs", ".venv"} <= set(sent.excludes)


def test_a_large_file_is_refused_by_name(tmp_path):
    with (tmp_path / "weights.safetensors").open("wb") as file:
        file.truncate((MOST_FILE_MB + 1) << 20)
    with pytest.raises(ConfigError, match=r"weights\.safetensors \(51 MB\)"):
        upload(tmp_path)
    (tmp_path / ".rayignore").write_text("*.safetensors\n")
    assert upload(tmp_path).files == 1
