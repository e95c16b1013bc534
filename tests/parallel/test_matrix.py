"""The support matrix: its proofs exist, it is applied, and the docs show the same table."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from raylm.parallel.matrix import as_markdown, cells, features, refusal, unproven
from raylm.train.config import Train

ROOT = Path(__file__).parents[2]


def table(**keys):
    return Train(stage="train", rows="rows", model="some/model", batch=8, steps=1, **keys)


@pytest.mark.parametrize("cell", cells(), ids=lambda cell: " x ".join(sorted(cell.of)))
def test_what_works_has_a_test_and_what_is_refused_a_reason(cell):
    assert cell.status in ("works", "refused")
    if cell.status == "refused":
        assert len(cell.why) > 10
        return
    file, _, name = cell.proof.partition("::")
    tree = ast.parse((ROOT / file).read_text())
    names = [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    assert name.split("[")[0] in names, cell.proof


def test_no_combination_stands_twice_and_none_is_both_proven_and_refused():
    for status in ("works", "refused"):
        same = [cell.of for cell in cells() if cell.status == status]
        assert len(same) == len(set(same))
    refused = [cell.of for cell in cells() if cell.status == "refused"]
    for cell in cells():
        assert cell.status == "refused" or not any(of <= cell.of for of in refused), cell


def test_a_refused_layout_is_a_mistake_in_the_job():
    with pytest.raises(ValueError, match="ddp x replicas: ddp holds the whole model"):
        table(strategy={"kind": "ddp"}, mesh={"replicas": 2}, workers={"count": 2})
    with pytest.raises(ValueError, match="cross_entropy = 'plain' is for whole vocabularies"):
        table(mesh={"tensor": 2}, workers={"count": 2}, cross_entropy="plain")
    with pytest.raises(ValueError, match="dora x tensor: the norm of a matrix row"):
        table(mesh={"tensor": 2}, workers={"count": 2}, adapter={"use_dora": True})
    with pytest.raises(ValueError, match="deepspeed x ema"):
        table(strategy={"kind": "deepspeed"}, ema=0.99, workers={"count": 2})
    with pytest.raises(ValueError, match="3 ranks are no multiple of tensor x context x pipeline = 2"):
        table(mesh={"tensor": 2}, workers={"count": 3})


def test_pairs_without_a_proof_are_refused(monkeypatch):
    assert "holds the whole model" in str(refusal({"ddp", "replicas"}))
    assert refusal({"fsdp", "replicas", "adapter", "float32"}) is None
    known = tuple(cell for cell in cells() if "tensor" not in cell.of)
    monkeypatch.setattr("raylm.parallel.matrix.cells", lambda: known)
    assert refusal({"fsdp", "tensor", "float32"}) == "fsdp x tensor: no test proves these together yet"
    assert refusal({"fsdp", "context"}) is None


def test_three_dimensions_that_no_single_test_has_seen_are_reported():
    assert not unproven({"fsdp", "replicas"})
    assert unproven({"fsdp", "replicas", "tensor", "context", "pipeline", "expert"})


def test_features_are_read_from_the_stage():
    found = features(table(mesh={"replicas": 2}, workers={"count": 4}, document_mask=True))
    assert {"fsdp", "replicas", "document_mask", "adamw", "next_token", "float32"} <= found
    assert "tensor" not in found and "adapter" not in found


def test_the_docs_hold_the_matrix():
    """`python -m tests.parallel.test_matrix` writes it anew."""
    assert as_markdown() in (ROOT / "raylm" / "parallel" / "README.md").read_text()


if __name__ == "__main__":
    at = ROOT / "raylm" / "parallel" / "README.md"
    before = at.read_text().split("| combination |")[0]
    at.write_text(before + as_markdown())
