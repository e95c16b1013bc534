"""`raylm push`: what goes to a hub, what a card tells and keeps back, and that a push that broke off goes on."""

from __future__ import annotations

import json

import pytest
import torch
from huggingface_hub import constants

from raylm.cli import main
from raylm.core.artifact import Checkpoint, Tokens, open_artifact
from raylm.core.storage import Folder
from raylm.model.load import load_model
from raylm.model.model_card import public
from tests.hub import TOKEN, Hub
from tests.model.tiny import tiny_checkpoint
from tests.rows import counting_rows, make_rows
from tests.stages import context

JOB = """
name = "j"
root = "{root}"
[stages.docs]
stage = "prepare"
source = {{kind = "text", glob = "/home/me/private/*.txt"}}
[stages.tokens]
stage = "tokenize"
documents = "docs"
tokenizer = {{kind = "bpe", vocab_size = 300}}
form = {{kind = "text", length = 16}}
[stages.sft]
stage = "train"
rows = "tokens"
model = "owner/small"
batch = 2
steps = 2
adapter = {{rank = 4}}
"""


@pytest.fixture
def job_file(tmp_path, monkeypatch):
    """A job whose `sft` is there: merged weights, an adapter, tokenizer; of the rest what its manifest names."""
    from peft import LoraConfig, get_peft_model

    monkeypatch.setenv("HF_TOKEN", TOKEN)
    # the server speaks LFS
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    root = tmp_path / "runs" / "j"
    make_rows(root, "tokens", Tokens, counting_rows(8), length=16)
    ctx = context(root, "sft")
    tiny_checkpoint(ctx.out.uri, vocab=300, hidden=32, layers=1)
    model = get_peft_model(load_model(ctx.out.uri, "float32"), LoraConfig(r=2, target_modules=["q_proj"]))
    model.peft_config["default"].base_model_name_or_path = "/home/me/base"
    model.save_pretrained(ctx.out.path("adapter"))
    ctx.out.write("report.html", "<p>mine</p>")
    facts = {"parameters": 1234, "base_model": "owner/small", "objective": "next_token"}
    ctx.commit(Checkpoint, variant="causal", facts=facts, metrics={"held_out_loss_after": 1.25})
    manifest = ctx.out.read_json("manifest.json")
    tokens = open_artifact(Folder(root / "tokens"))
    manifest["config"] = {"stage": "train", "model": "owner/small", "rows": "tokens", "api_key": "sesame"}
    manifest["inputs"] = [
        {"name": "rows", "uri": tokens.uri, "fingerprint": tokens.fingerprint, "kind": "Tokens"},
        {"name": "model", "uri": "owner/small", "fingerprint": "f" * 16, "kind": "Checkpoint"},
    ]
    ctx.out.write("manifest.json", json.dumps(manifest))
    path = tmp_path / "job.toml"
    path.write_text(JOB.format(root=tmp_path / "runs"))
    return path


def test_model_adapter_and_card_go_to_a_private_repository(job_file, tmp_path, capsys):
    with Hub() as hub:
        options = ["--endpoint", hub.url, "--license", "apache-2.0", "--revision", "v2", "--tag", "first"]
        assert main(["push", str(job_file), "sft", "me/mine", *options]) == 0
        said = capsys.readouterr().out
        assert f"{hub.url}/me/mine/commit/" in said and "next: name me/mine" in said
        assert hub.private["me/mine"] and not hub.repos["me/mine"]["main"]
        tree = hub.repos["me/mine"]["v2"]
        assert len(hub.tags["me/mine"]["first"]) == 40
    for path, content in tree.items():
        (tmp_path / "back" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "back" / path).write_bytes(content)
    back, here = load_model(str(tmp_path / "back")), load_model(str(tmp_path / "runs" / "j" / "sft"))
    assert all(torch.equal(back.state_dict()[name], tensor) for name, tensor in here.state_dict().items())
    assert {"config.json", "tokenizer.json", "adapter/adapter_model.safetensors"} <= tree.keys()
    assert not {"report.html", "manifest.json", "metrics.jsonl"} & tree.keys()
    assert json.loads(tree["adapter/adapter_config.json"])["base_model_name_or_path"] == "owner/small"
    card = tree["README.md"].decode()
    assert card.startswith("---\nlibrary_name: transformers\nlicense: apache-2.0\nbase_model: owner/small\n")
    assert "| held_out_loss_after | 1.25 |" in card and "| sft | Checkpoint | tokens, owner/small (outside) |" in card
    manifest = open_artifact(Folder(tmp_path / "runs" / "j" / "sft")).manifest
    assert all(entry.digest in card for entry in manifest.files if entry.path.startswith("model"))
    assert (
        "sesame" not in card and str(tmp_path) not in card and "/home/me" not in b"".join(tree.values()).decode(errors="ignore")
    )


def test_the_adapter_alone_stands_at_the_root_beside_its_base(job_file, capsys):
    with Hub() as hub:
        assert main(["push", str(job_file), "sft", "me/adapter", "--adapter", "--endpoint", hub.url]) == 0
        tree = hub.repos["me/adapter"]["main"]
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "README.md"} <= tree.keys()
    assert not {"model.safetensors", "config.json"} & tree.keys()
    assert b"library_name: peft" in tree["README.md"] and b"license" not in tree["README.md"].split(b"---")[1]
    assert b"raylm" in tree["README.md"], "the card is peft's, and not ours"
    assert "no licence is named" in capsys.readouterr().out


def test_a_push_that_broke_off_does_not_send_again_what_arrived(job_file, capsys):
    with Hub(refuse_after=1) as hub:
        command = ["push", str(job_file), "sft", "me/mine", "--endpoint", hub.url]
        assert main(command) == 1
        assert "the hub did not take it" in (said := capsys.readouterr().err) and "is not sent again" in said
        assert not hub.repos["me/mine"]["main"] and len(hub.uploads) == 1
        hub.refuse_after = None
        assert main(command) == 0
        assert len(hub.uploads) == len(set(hub.uploads)) == 2 and len(hub.messages) == 1
        assert {"model.safetensors", "adapter/adapter_model.safetensors"} <= hub.repos["me/mine"]["main"].keys()


def test_a_dry_run_shows_all_and_sends_nothing(job_file, monkeypatch, capsys):
    monkeypatch.delenv("HF_TOKEN")
    with Hub() as hub:
        assert main(["push", str(job_file), "sft", "me/mine", "--merged", "--dry-run", "--endpoint", hub.url]) == 0
        said = capsys.readouterr().out
        assert "model.safetensors  " in said and "adapter/" not in said.split("# mine")[0] and "Nothing was sent" in said
        assert not hub.repos
        assert main(["push", str(job_file), "sft", "me/mine", "--endpoint", hub.url]) == 1
        assert "HF_TOKEN is not set" in capsys.readouterr().err and not hub.repos


def test_a_public_repository_and_changed_weights_are_refused(job_file, tmp_path, capsys, monkeypatch):
    with Hub() as hub:
        assert main(["push", str(job_file), "sft", "me/open", "--public", "--endpoint", hub.url]) == 0
        assert not hub.private["me/open"]
        assert main(["push", str(job_file), "sft", "me/open", "--endpoint", hub.url]) == 1
        assert "me/open is public" in capsys.readouterr().err
        monkeypatch.setenv("HF_TOKEN", "hf_wrong")
        assert main(["push", str(job_file), "sft", "me/other", "--endpoint", hub.url]) == 1
        assert "the hub did not take it" in capsys.readouterr().err
    weights = tmp_path / "runs" / "j" / "sft" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert main(["push", str(job_file), "sft", "me/mine", "--dry-run"]) == 1
    assert "the file was changed" in capsys.readouterr().err


def test_stages_that_are_no_checkpoint_are_refused(job_file, capsys):
    assert main(["push", str(job_file), "tokens", "me/mine", "--dry-run"]) == 1
    assert "a Checkpoint is pushed, this is a Tokens" in capsys.readouterr().err
    assert main(["push", str(job_file), "sfd", "me/mine", "--dry-run"]) == 1
    assert "Did you mean 'sft'?" in capsys.readouterr().err


def test_what_names_a_machine_or_opens_something_is_not_public():
    config = {
        "glob": "/home/me/data/*.txt",
        "url": "https://me:pass@host/x",
        "headers": {"Authorization": "Bearer x"},
        "n": [1, "~/k"],
    }
    assert public(config) == {
        "glob": ".../*.txt", "url": "https://host/x", "headers": {"Authorization": "..."}, "n": [1, ".../k"],
    }  # fmt: skip


def test_passwords_and_signatures_in_urls_are_not_public():
    config = {
        "uri": "https://me:p@ss@host/a.jsonl?X-Amz-Signature=abc#x",
        "db_pwd": "x",
        "headers": {"Cookie": "y"},
        "why": "50?",
    }
    assert public(config) == {"uri": "https://host/a.jsonl", "db_pwd": "...", "headers": {"Cookie": "..."}, "why": "50?"}


def test_an_export_goes_with_its_proof_and_the_licence_of_its_base(tmp_path, monkeypatch, capsys):
    from raylm.compress.formats.mlx import Mlx
    from raylm.compress.formats.source import Source
    from raylm.model.licence import licence_of
    from raylm.model.model_card import model_card

    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    root = tmp_path / "runs" / "j"
    base = context(root, "base")
    tiny_checkpoint(base.out.uri, vocab=300, hidden=32, layers=1)
    base.out.write("README.md", "---\nlicense: apache-2.0\n---\n# base\n")
    base.commit(Checkpoint, variant="causal", facts={}, metrics={"held_out_loss_after": 1.25})
    small = context(root, "small")
    written = Mlx().write(Source(base.out.uri), small.out)
    facts = {**written.facts, "parity": {"xllamacpp": "ids 64/64"}, "use": "mlx_lm.generate --model small"}
    licence = licence_of(root / "base").key
    card = {"README.md": lambda made: model_card(made, "small", licence, None, False)}
    small.commit(Checkpoint, variant=written.variant, facts=facts, metrics=written.metrics, beside=card)
    manifest = small.out.read_json("manifest.json")
    manifest["inputs"] = [{"name": "model", "uri": base.out.uri, "fingerprint": "f" * 16, "kind": "Checkpoint"}]
    small.out.write("manifest.json", json.dumps(manifest))
    own = small.out.read("README.md").decode()
    assert own.startswith("---\nlibrary_name: mlx\nlicense: apache-2.0\n") and "| xllamacpp | ids 64/64 |" in own
    assert [entry["path"] for entry in manifest["files"]].count("README.md") == 1
    job_file = tmp_path / "job.toml"
    stage = '[stages.small]\nstage = "compress"\nmodel = "owner/x"\nformat = {kind = "mlx"}\n'
    job_file.write_text(f'name = "j"\nroot = "{tmp_path / "runs"}"\n{stage}')
    with Hub() as hub:
        assert main(["push", str(job_file), "small", "me/mlx", "--endpoint", hub.url]) == 0, capsys.readouterr().err
        tree = hub.repos["me/mlx"]["main"]
        assert main(["push", str(job_file), "small", "me/mlx", "--endpoint", hub.url, "--license", "mit"]) == 1
        assert "under apache-2.0, not under mit" in capsys.readouterr().err
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md"} <= tree.keys()
    sent = tree["README.md"].decode()
    assert sent.startswith("---\nlibrary_name: mlx\nlicense: apache-2.0\n") and "# mlx" in sent
    assert (
        "mlx_lm.generate --model" in sent and "Of `base`, which was exported" in sent and "| held_out_loss_after | 1.25 |" in sent
    )
    assert str(tmp_path) not in sent


def test_the_figures_before_are_those_of_the_model_that_was_exported(tmp_path):
    from raylm.model.model_card import model_card

    teacher, small = context(tmp_path, "teacher"), context(tmp_path, "small")
    for each, variant, metrics in ((teacher, "causal", {"held_out_loss_after": 0.5}), (small, "export:gguf", {"bytes_after": 1})):
        each.out.write("model.gguf", "x")
        each.commit(Checkpoint, variant=variant, facts={}, metrics=metrics)
    manifest = small.out.read_json("manifest.json")
    entry = {"uri": teacher.out.uri, "fingerprint": "f" * 16, "kind": "Checkpoint"}
    for name, told in (("prompts", False), ("model", True)):
        manifest["inputs"] = [{**entry, "name": name}]
        small.out.write("manifest.json", json.dumps(manifest))
        made = open_artifact(small.out)
        assert isinstance(made, Checkpoint)
        assert ("which was exported" in model_card(made, "small", None, None, False)) is told
