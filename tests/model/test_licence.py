"""Licences: what stands beside the weights or those they were trained from; none is made up."""

from __future__ import annotations

import pytest

from raylm.core.artifact import Checkpoint
from raylm.core.errors import ConfigError
from raylm.model.licence import licence_of
from tests.stages import context


def test_it_is_found_beside_the_weights_or_made_up_by_nobody(tmp_path):
    assert licence_of(tmp_path) == (None, None, "") and licence_of(tmp_path).texts() == []
    assert licence_of(tmp_path, "mit").key == "mit"
    (tmp_path / "LICENSE").write_text("All rights reserved.\n")
    assert licence_of(tmp_path).texts() == ["All rights reserved.\n"]
    # the text says no key: what is named goes on cards beside it
    assert licence_of(tmp_path, "other")[:2] == ("other", "All rights reserved.\n")
    (tmp_path / "README.md").write_text("---\nlibrary_name: x\nlicense: 'apache-2.0'\n---\nlicense: mit\n")
    assert licence_of(tmp_path).key == "apache-2.0" and licence_of(tmp_path, "Apache-2.0").key == "apache-2.0"
    with pytest.raises(ConfigError, match=r"under apache-2\.0, not under mit"):
        licence_of(tmp_path, "mit")


def test_it_is_that_of_the_model_that_training_began_with(tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    (base / "README.md").write_text("---\nlicense: llama3.2\n---\n")
    ctx = context(tmp_path, "sft")
    ctx.out.write("x", "y")
    ctx.commit(Checkpoint, facts={})
    manifest = ctx.out.read_json("manifest.json")
    entry = {"name": "model", "uri": str(base), "fingerprint": "f" * 16, "kind": "Checkpoint"}
    manifest["inputs"] = [entry]
    ctx.out.write_json("manifest.json", manifest)
    assert licence_of(tmp_path / "sft").key == "llama3.2"
    # a teacher's is none of the weights'
    manifest["inputs"] = [{**entry, "uri": "owner/unknown"}, {**entry, "name": "objective.teacher"}]
    ctx.out.write_json("manifest.json", manifest)
    assert licence_of(tmp_path / "sft").key is None
