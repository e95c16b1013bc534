"""Artifacts: what has no manifest does not exist, what is damaged is said to be."""

from pathlib import Path

import pytest

from raylm.core.artifact import Documents, Manifest, git_commit, open_artifact, versions
from raylm.core.errors import ArtifactError
from raylm.core.storage import Folder
from tests.stages import context


def test_commit_then_open(tmp_path):
    ctx = context(tmp_path, "docs")
    ctx.out.write("documents-00000.parquet", b"rows")
    ctx.work.write("mark", "x")
    made = ctx.commit(Documents, facts={"rows": 3}, rows={"documents-00000.parquet": 3})
    found = open_artifact(ctx.out)
    assert isinstance(found, Documents)
    assert found.manifest == made.manifest
    assert found.facts == {"rows": 3}
    entry = found.shards("documents-")[0]
    assert (entry.rows, entry.bytes, len(entry.digest)) == (3, 4, 32)
    assert not ctx.work.exists("mark")


def test_content_is_the_payload_and_not_the_metrics(tmp_path):
    made = []
    for name, payload, loss in (("a", b"1", 0.1), ("b", b"1", 0.2), ("c", b"2", 0.1)):
        ctx = context(tmp_path, name)
        ctx.out.write("weights", payload)
        ctx.log(0, loss=loss)
        made.append(ctx.commit(Documents, facts={}).content)
    assert made[0] == made[1] != made[2]


def test_work_outlives_a_commit_that_fails(tmp_path):
    """A kill while files are being digested leaves the step checkpoints; here a file vanishes at that moment."""
    ctx = context(tmp_path, "docs")
    ctx.work.write("step-1/done.json", "{}")
    (tmp_path / "docs" / "gone").symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError):
        ctx.commit(Documents, facts={})
    assert ctx.work.exists("step-1/done.json")
    assert not ctx.out.exists("manifest.json")


def test_without_a_manifest_nothing_is_there(tmp_path):
    context(tmp_path, "docs").out.write("documents-00000.parquet", b"rows")
    with pytest.raises(ArtifactError, match="nothing finished"):
        open_artifact(Folder(tmp_path / "docs"))


def test_a_cut_payload_file_is_noticed(tmp_path):
    ctx = context(tmp_path, "docs")
    ctx.out.write("a", b"12345")
    ctx.commit(Documents, facts={})
    Path(ctx.out.path("a")).write_bytes(b"123")
    with pytest.raises(ArtifactError, match="has 3 bytes, the manifest says 5"):
        open_artifact(ctx.out)
    Path(ctx.out.path("a")).unlink()
    with pytest.raises(ArtifactError, match="is missing"):
        open_artifact(ctx.out)


def test_a_broken_manifest_is_noticed(tmp_path):
    (tmp_path / "manifest.json").write_text('{"kind": "Documents"}')
    with pytest.raises(ArtifactError, match="unreadable manifest"):
        open_artifact(Folder(tmp_path))


def test_the_manifest_records_versions_and_commit(tmp_path):
    assert {"python", "raylm", "torch"} <= versions().keys()
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    (tmp_path / ".git" / "packed-refs").write_text("# pack\nabc123 refs/heads/main\n")
    assert git_commit(tmp_path) == "abc123"
    assert Manifest.model_fields.keys() >= {"fingerprint", "inputs", "files", "facts", "metrics", "versions", "git_commit"}
