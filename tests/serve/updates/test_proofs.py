"""What may take the place of a served checkpoint, and what is refused before a replica hears of it."""

from __future__ import annotations

import json
import shutil

import pytest

from raylm.core.artifact import Checkpoint, InputEntry, Report
from raylm.core.context import Context
from raylm.core.errors import ArtifactError, StageError
from raylm.core.storage import Folder
from raylm.core.workers import Workers
from raylm.serve.updates.proofs import check_gate, differences, proof, target
from tests.model.tiny import tiny_checkpoint, tiny_model


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("one") / "sft")


@pytest.fixture
def other(one, tmp_path):
    """A checkpoint of the same shape with other weights."""
    to = tmp_path / "job" / "sft2"
    shutil.copytree(one, to)
    tiny_model(vocab=512, seed=9).save_pretrained(to)
    return to


def commit(at, kind, inputs=(), **facts):
    made = Context(
        stage=at.name,
        out=Folder(at),
        stages={},
        workers=Workers(),
        config={},
        identity={},
        inputs=[InputEntry(name="model", uri=each.uri, fingerprint=each.fingerprint, kind=each.kind) for each in inputs],
        fingerprint=f"of-{at.name}",
    )
    return made.commit(kind, facts=facts)


def edited(folder, name, change):
    table = json.loads((folder / name).read_text())
    change(table)
    (folder / name).write_text(json.dumps(table))


def test_other_weights_of_the_same_shape_go_in_place(one, other):
    assert differences(str(one), str(other)) == []


def set_template(other):
    (other / "chat_template.jinja").write_text("{{ messages }}")


def set_token(other):
    edited(other, "tokenizer.json", lambda table: table["model"]["merges"].reverse())


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (set_template, "chat template"),
        (set_token, "tokenizer.json"),
        (lambda other: edited(other, "config.json", lambda table: table.update(rms_norm_eps=0.1)), "config.json: rms_norm_eps"),
        (lambda other: edited(other, "generation_config.json", lambda table: table.update(temperature=0.1)), "temperature"),
        (lambda other: edited(other, "generation_config.json", lambda table: table.update(eos_token_id=7)), "end an answer"),
    ],
)
def test_what_an_engine_reads_once_is_named(one, other, change, why):
    change(other)
    assert why in "; ".join(differences(str(one), str(other)))


def test_another_shape_under_the_same_config_is_seen_in_the_files(one, other):
    from safetensors.torch import load_file, save_file

    state = load_file(other / "model.safetensors")
    del state["model.norm.weight"]
    save_file(state, other / "model.safetensors", {"format": "pt"})
    assert differences(str(one), str(other)) == ["1 weights are missing that the engine has, first model.norm.weight"]


def test_a_file_that_changed_since_it_was_made_is_refused(other):
    made = commit(other, Checkpoint, dtype="float32")
    assert target(str(other)).fingerprint == made.fingerprint == "of-sft2"
    weights = bytearray((other / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (other / "model.safetensors").write_bytes(weights)
    with pytest.raises(ArtifactError, match="not the one that was made"):
        target(str(other))


def test_a_folder_that_raylm_did_not_make_is_known_by_its_bytes(other, tmp_path):
    before = target(str(other))
    edited(other, "config.json", lambda table: table.update(rms_norm_eps=0.1))
    assert target(str(other)).fingerprint != before.fingerprint
    with pytest.raises(ArtifactError, match="no checkpoint is here"):
        target(str(tmp_path))


def test_the_gate_is_asked_as_at_the_first_start(other):
    made = commit(other, Checkpoint, dtype="float32")
    found = target(str(other))
    assert check_gate(found, False, None) == ""
    with pytest.raises(StageError, match="no evaluation report of this checkpoint was found"):
        check_gate(found, True, None)
    stranger = commit(other.parent / "elsewhere", Report, passed=True, reasons=[])
    with pytest.raises(StageError, match="not of this checkpoint"):
        check_gate(found, True, stranger.uri)
    bad = commit(other.parent / "bad", Report, [made], passed=False, reasons=["held_out_loss 3 > 2"])
    with pytest.raises(StageError, match="held_out_loss 3 > 2"):
        check_gate(found, True, None)
    shutil.rmtree(bad.folder.uri)
    good = commit(other.parent / "good", Report, [made], passed=True, reasons=[])
    assert check_gate(found, True, None) == good.uri == check_gate(found, False, good.uri)


def test_a_proof_says_what_transformers_says(one):
    import torch
    from transformers import AutoModelForCausalLM

    made = proof(str(one), "float32", ("What is a list?", "x"), 4.0)
    assert [turn.text for turn in made.turns] == ["What is a list?", "x"] and made.ends == [2] and not made.why_not
    model = AutoModelForCausalLM.from_pretrained(one, dtype="float32").eval()
    for turn, probe in zip(made.turns, made.probes, strict=True):
        assert probe.tokens == [*turn.prompt, *turn.greedy] and len(probe.logprobs) == len(probe.tokens) - 1
        loss = model(torch.tensor([probe.tokens]), labels=torch.tensor([probe.tokens])).loss.item()
        assert -sum(probe.logprobs) / len(probe.logprobs) == pytest.approx(loss, abs=1e-5)
    large = proof(str(one), "float32", ("x",), 0.0)
    assert large.probes == [] and large.turns[0].greedy == [] and large.turns[0].prompt and "larger than" in large.why_not
