"""What /v1/models says: names, lineage, and no path of a machine."""

from __future__ import annotations

import json

from raylm.core.artifact import Checkpoint, Manifest, Report
from raylm.core.storage import Folder
from raylm.serve.api.models import ADAPTERS, card, lineage_of, listed
from raylm.serve.directory import Address, Replica, State, View

LINEAGE = {"fingerprint": "f00d", "created": 7, ADAPTERS: {"french": {"fingerprint": "beef", "created": 9}}}


def manifest(kind, **fields):
    rest: dict = {"identity": {}, "inputs": [], "files": [], "metrics": {}, "versions": {}, "git_commit": None, "seconds": 1.0}
    rest |= {"config": {}, "facts": {}, "fingerprint": f"of-{kind}", "made_at": "2026-11-30T07:00:00+00:00", **fields}
    return Manifest(kind=kind, stage="x", **rest)


def replica(name, adapters=(), state: State = "ready", model="raylm"):
    return Replica(Address(name, model, "h", 1, "s", max_len=512, adapters=adapters, lineage=LINEAGE), state)


def test_lineage_tells_names_and_no_place(tmp_path):
    made = Checkpoint(
        Folder(tmp_path / "quickstart" / "sft"), manifest("Checkpoint", variant="causal", config={"model": "/data/base"})
    )
    report = Report(Folder(tmp_path / "quickstart" / "report"), manifest("Report", facts={"passed": True}))
    lineage = lineage_of(made, made.uri, made.fingerprint, report)
    assert lineage.pop("created") > 0
    assert lineage == {
        "fingerprint": made.fingerprint,
        "job": "quickstart",
        "stage": "sft",
        "variant": "causal",
        "base_model": "base",
        "report": {"name": "report", "fingerprint": report.fingerprint, "passed": True},
    }
    assert str(tmp_path) not in json.dumps(card("raylm", 512, lineage))


def test_weights_of_others_are_told_by_their_name():
    named = {"org/model": "org/model", "/home/me/model/": "model", "s3://bucket/a/model": "model", "./models/x": "x"}
    for given, told in named.items():
        assert lineage_of(None, given, "f")["base_model"] == told


def test_an_adapter_is_listed_when_every_replica_has_it():
    both = listed(View(1, (replica("a", ("french",)), replica("b", ("french",)))))
    assert [(each["id"], each["parent"], each["created"]) for each in both] == [("raylm", None, 7), ("french", "raylm", 9)]
    assert both[1]["metadata"] == {"fingerprint": "beef"} and both[0]["metadata"] == {"fingerprint": "f00d"}
    half = listed(View(1, (replica("a", ("french",)), replica("b"))))
    assert [each["id"] for each in half] == ["raylm"]
    # one that is not asked does not count
    assert len(listed(View(1, (replica("a", ("french",)), replica("b", state="unready"))))) == 2
    assert [each["id"] for each in listed(View(1, (replica("a"), replica("b", model="small"))))] == ["raylm", "small"]
