"""`raylm update`, `rollback` and `rollout` up to Control: what they ask for, and what they refuse."""

from __future__ import annotations

import json
import shutil

import pytest

from raylm.cli import main
from raylm.core.artifact import Checkpoint, Endpoint, InputEntry, Report
from raylm.core.context import Context
from raylm.core.errors import ConfigError
from raylm.core.storage import Folder
from raylm.core.workers import Workers
from raylm.serve.updates.history import Progress, Version, Versions, now
from raylm.serve.updates.update import seconds
from tests.model.tiny import tiny_checkpoint, tiny_model


def commit(at, kind, inputs=(), config=None, **facts):
    made = Context(
        stage=at.name,
        out=Folder(at),
        stages={},
        workers=Workers(),
        config=config or {},
        identity={},
        inputs=[InputEntry(name="model", uri=each.uri, fingerprint=each.fingerprint, kind=each.kind) for each in inputs],
        fingerprint=f"of-{at.name}",
    )
    return made.commit(kind, facts=facts)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Two of one shape, and one whose template is another."""
    root = tmp_path_factory.mktemp("job")
    tiny_checkpoint(root / "sft")
    for name, seed in (("sft2", 8), ("sft3", 9)):
        shutil.copytree(root / "sft", root / name)
        tiny_model(vocab=512, seed=seed).save_pretrained(root / name)
    (root / "sft3" / "chat_template.jinja").write_text("{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}")
    for name in ("sft", "sft2", "sft3"):
        commit(root / name, Checkpoint, dtype="float32")
    return root


@pytest.fixture
def endpoint(checkpoints):
    """The folder of an endpoint that serves `sft`."""
    from raylm.core.artifact import open_artifact

    served = open_artifact(Folder(checkpoints / "sft"))
    facts = {"url": "http://127.0.0.1:1/v1", "model_name": "raylm", "served": served.fingerprint, "dtype": "float32"}
    commit(checkpoints / "api", Endpoint, [served], {"model_name": "raylm"}, **facts)
    yield checkpoints / "api"
    shutil.rmtree(checkpoints / ".rollouts", ignore_errors=True)


def asked(endpoint):
    found = Versions.of(Folder(endpoint)).asked()
    assert found is not None
    return found


def test_an_update_in_place_is_asked_for_with_its_proof(endpoint, checkpoints, capsys):
    assert main(["update", str(endpoint), str(checkpoints / "sft2"), "--detach", "--why", "better"]) == 0
    one = asked(endpoint)
    assert (one.model, one.fingerprint, one.how, one.why) == ("raylm", "of-sft2", "in_place", "better")
    assert one.proof is not None and one.proof.ends == [2] and len(one.proof.probes) == len(one.proof.turns) == 6
    assert one.content and one.by and one.share == one.for_s == 0
    assert "raylm: of-sft -> of-sft2 (in place)" in capsys.readouterr().out
    # one at a time, until somebody gives it up
    assert main(["update", str(endpoint), str(checkpoints / "sft2"), "--detach"]) == 1
    assert "another update is under way" in capsys.readouterr().err
    assert main(["rollback", str(endpoint)]) == 0 and asked(endpoint).stop


def test_another_template_goes_the_rolling_way(endpoint, checkpoints, capsys):
    assert main(["update", str(endpoint), str(checkpoints / "sft3"), "--in-place", "--detach"]) == 1
    said = capsys.readouterr().err
    assert "an engine cannot take these weights in place: chat template" in said and "--rolling" in said
    assert main(["update", str(endpoint), str(checkpoints / "sft3"), "--detach"]) == 0
    assert asked(endpoint).how == "rolling" and "not in place: chat template" in capsys.readouterr().out


def test_a_canary(endpoint, checkpoints):
    command = [
        "update",
        str(endpoint),
        str(checkpoints / "sft2"),
        "--canary",
        "0.1",
        "--for",
        "2m",
        "--shadow",
        "0.05",
        "--detach",
    ]
    assert main([*command, "--max-errors", "0.01"]) == 0
    one = asked(endpoint)
    assert (one.how, one.share, one.shadow, one.for_s, one.error_rate) == ("rolling", 0.1, 0.05, 120.0, 0.01)
    assert (seconds("90"), seconds("90s"), seconds("2h")) == (90.0, 90.0, 7200.0)
    with pytest.raises(ConfigError, match="is no time"):
        seconds("soon")
    with pytest.raises(SystemExit):
        main(["update", str(endpoint), "x", "--canary", "10"])


def test_what_is_served_already_or_not_what_it_was_is_refused(endpoint, checkpoints, tmp_path, capsys):
    assert main(["update", str(endpoint), str(checkpoints / "sft"), "--detach"]) == 1
    assert "raylm has these weights already" in capsys.readouterr().err
    other = tmp_path / "sft2"
    shutil.copytree(checkpoints / "sft2", other)
    weights = bytearray((other / "model.safetensors").read_bytes())
    weights[-2] ^= 1
    (other / "model.safetensors").write_bytes(weights)
    assert main(["update", str(endpoint), str(other), "--detach"]) == 1
    assert "not the one that was made" in capsys.readouterr().err
    assert main(["update", str(checkpoints / "sft"), str(other), "--detach"]) == 1
    assert main(["update", str(endpoint), str(other), "--name", "rayln", "--detach"]) == 1
    assert "Did you mean 'raylm'" in capsys.readouterr().err


def test_an_endpoint_that_asks_for_a_gate_asks_again(endpoint, checkpoints, capsys):
    manifest = json.loads((endpoint / "manifest.json").read_text())
    manifest["config"]["requires"] = "report"
    (endpoint / "manifest.json").write_text(json.dumps(manifest))
    assert main(["update", str(endpoint), str(checkpoints / "sft2"), "--detach"]) == 1
    assert "no evaluation report of this checkpoint was found" in capsys.readouterr().err
    from raylm.core.artifact import open_artifact

    commit(checkpoints / "graded", Report, [open_artifact(Folder(checkpoints / "sft2"))], passed=True, reasons=[])
    assert main(["update", str(endpoint), str(checkpoints / "sft2"), "--detach"]) == 0
    assert asked(endpoint).report.endswith("/graded")


def test_a_rollback_brings_back_exactly_that(endpoint, checkpoints, capsys):
    versions = Versions.of(Folder(endpoint))
    assert main(["rollback", str(endpoint)]) == 1
    assert "had no earlier version" in capsys.readouterr().err
    for name in ("sft", "sft2"):
        made = Version(
            model="raylm", fingerprint=f"of-{name}", uri=str(checkpoints / name), how="in_place", began=now(), by="me", content=""
        )
        versions.began(made, "an update")
    assert main(["rollback", str(endpoint), "of-sft", "--detach", "--why", "worse"]) == 0
    one = asked(endpoint)
    assert (one.fingerprint, one.uri, one.how) == ("of-sft", str(checkpoints / "sft"), "in_place")
    assert one.proof is not None and "rolled back by" in one.why and one.why.endswith(": worse")
    versions.tell(Progress(number=one.number, model="raylm", fingerprint="of-sft", before="of-sft2", phase="done", since=now()))
    assert main(["rollout", str(endpoint)]) == 0
    said = capsys.readouterr().out
    assert "of-sft2 -> of-sft: done" in said and "an update" in said
    # what lies there is another checkpoint by now
    broken = versions.read()[0].model_copy(update={"content": "another"})
    versions.folder.write_json("api.json", {"versions": [each.model_dump() for each in (broken, versions.read()[1])]})
    assert main(["rollback", str(endpoint), "--detach"]) == 1
    assert "lies there no more" in capsys.readouterr().err
