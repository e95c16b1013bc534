"""A stage whose input and output lie in an S3 bucket: the bytes of a disk, and work that is kept."""

import json
import random

import pytest

from raylm.core.artifact import MANIFEST, WORK
from raylm.core.context import Context
from raylm.core.errors import DataError
from raylm.core.storage import Folder
from raylm.prepare import stage
from raylm.prepare.config import Prepare
from tests.buckets import local_bucket
from tests.stages import payload

pytestmark = pytest.mark.ray


@pytest.fixture
def bucket(workers):
    """The server, and a Ray whose processes know of it."""
    with local_bucket("raylm") as client:
        workers.stop()
        yield client
        workers.stop()


def _run(root, cfg, workers):
    folder = Folder(f"{root}/docs").make()
    made = {"config": cfg.model_dump(mode="json"), "identity": {}, "inputs": [], "fingerprint": "x"}
    return stage.run(cfg, Context(stage="docs", out=folder, stages={}, workers=workers, **made))


def _raw():
    draw = random.Random(0)
    texts = [" ".join("".join(draw.choices("abcdefghij", k=6)) for _ in range(60)) for _ in range(90)]
    # 57 equal one before them, 2 nearly do
    one = [*(texts[at % 50] for at in range(107)), *(f"{texts[50]} {end}" for end in ("", "x", "y"))]
    return {"a": [{"text": text} for text in one], "b": [{"text": text} for text in texts[51:]]}


def test_a_bucket_holds_what_a_disk_holds_and_goes_on_where_it_stopped(bucket, workers, tmp_path):
    raw = {f"raw/{name}.jsonl": "".join(json.dumps(row) + "\n" for row in rows).encode() for name, rows in _raw().items()}
    for key, content in raw.items():
        bucket.put_object(Bucket="raylm", Key=key, Body=content)
    table = {
        "source": {"kind": "jsonl", "glob": "s3://raylm/raw/*.jsonl", "split_bytes": len(raw["raw/a.jsonl"])},
        "steps": [{"kind": "length", "min_chars": 5}],
        "dedup": [{"kind": "exact"}, {"kind": "min_hash"}],
        "select": [{"kind": "sample", "share": 0.8}],
        "keep_rejected": True,
        "workers": {"count": 1},
    }
    told = Prepare.model_validate(table | {"max_source_loss": 1.0})
    disk = _run(tmp_path, told, workers)
    assert disk.facts["dropped"].keys() == {"duplicate", "near_duplicate", "not_selected"}

    out = Folder("s3://raylm/out/docs")
    with pytest.raises(DataError, match=r"a\.jsonl: dedup takes 59 of 110 documents"):
        _run("s3://raylm/out", Prepare.model_validate(table), workers)
    assert not out.exists(MANIFEST) and out.exists(f"{WORK}/read-00000.json")
    # whatever were read again would be missed
    for key, content in raw.items():
        bucket.put_object(Bucket="raylm", Key=key, Body=b" " * len(content))
    resumed = _run("s3://raylm/out", told, workers)
    assert payload(resumed) == payload(disk) and resumed.facts == disk.facts and not out.exists(WORK)
    assert len(disk.shards("documents-")) == 2
