"""`raylm merge`: any peft adapter against peft's own merge; what differs is not written."""

from __future__ import annotations

import pytest
import torch

from raylm.cli import main
from raylm.core.errors import ArtifactError, ConfigError
from raylm.core.storage import Folder
from raylm.merge import merge
from raylm.model.adapters.lora import Lora
from raylm.model.load import load_model, load_tokenizer
from raylm.model.new_tokens import NewTokens
from raylm.model.weight_files import weight_names
from tests.model.tiny import tiny_checkpoint, tiny_model, tiny_tokenizer

TOKENS = torch.arange(5, 45)[None]
ADAPTERS = {
    "lora": {},
    "dora": {"use_dora": True},
    "patterns": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.1.mlp.up_proj": 32}, "use_rslora": True},
    "head": {"modules_to_save": ["lm_head"]},
    "tied": {"target_modules": ["q_proj", "embed_tokens"]},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("base"), vocab=300, hidden=32)


def adapter(base, folder, seed=1, **table):
    """A peft model with an adapter that does something, saved to `folder`."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", **{"target_modules": "all-linear", **table})
    model = get_peft_model(load_model(str(base), "float32"), config)
    torch.manual_seed(seed)
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data += 0.05 * torch.randn_like(weight)
    model.save_pretrained(str(folder))
    return model.eval()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ADAPTERS)
def test_the_merged_model_says_what_the_unmerged_one_says(tmp_path, base, kind):
    model = adapter(base, tmp_path / "adapter", **ADAPTERS[kind])
    made = merge(str(tmp_path / "adapter"), str(base), Folder(tmp_path / "out"))
    # what is no matrix of its own is merged in memory
    assert made.streamed == (kind in ("lora", "dora", "patterns"))
    assert made.check and made.check.nats < 1e-5 and made.dtype == "F32"
    merged = load_model(str(tmp_path / "out"), "float32")
    with torch.no_grad():
        torch.testing.assert_close(merged(TOKENS).logits, model(TOKENS).logits, atol=1e-5, rtol=0)
    # a tied matrix stays one unless the adapter parts them
    assert ("lm_head.weight" in weight_names(tmp_path / "out")) == (kind in ("head", "tied"))
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()


def test_a_base_in_16_bits_is_rounded_once_and_the_drift_is_told(tmp_path, base, capsys):
    half = tmp_path / "half"
    assert main(["convert", str(base), str(half), "--to", "hugging_face", "--dtype", "bfloat16"]) == 0
    adapter(half, tmp_path / "stage" / "adapter")
    # the folder of a train stage has its adapter inside
    assert main(["merge", str(tmp_path / "stage"), str(half), str(tmp_path / "out"), "--max-nats", "1"]) == 0
    said = capsys.readouterr().out
    assert "14 tensors merged (a tensor at a time), stored in BF16" in said and "next: name" in said
    drift = float(said.split("differ by ")[1].split()[0])
    assert 1e-4 < drift < 0.1
    wide = merge(str(tmp_path / "stage"), str(half), Folder(tmp_path / "wide"), dtype="float32")
    assert wide.dtype == "F32" and wide.check and wide.check.nats < 1e-5
    with pytest.raises(ArtifactError, match=r"differs from the model with its adapter: .* allowed are 1e-06 \(stored in BF16\)"):
        merge(str(tmp_path / "stage"), str(half), Folder(tmp_path / "narrow"), max_nats=1e-6)
    assert not Folder(tmp_path / "narrow").files()
    assert merge(str(tmp_path / "stage"), str(half), Folder(tmp_path / "unchecked"), checked=False).check is None


def test_rows_for_new_tokens_and_their_tokenizer_are_merged(tmp_path, base):
    tokenizer = tiny_tokenizer(300)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|tool|>", "<|call|>"]}, replace_extra_special_tokens=False)
    card, begun = Lora(rank=2, modules=["q_proj"]), NewTokens().resize(load_model(str(base), "float32"), 302, tokenizer)
    model, parts = card.attach(begun, 0).eval(), {}
    for p in (p for p in model.parameters() if p.requires_grad):
        p.data += 0.1 * torch.randn_like(p)
    assert len(list(card.merge(model, model.state_dict().items(), parts)))
    card.save(model, parts, str(base), tmp_path / "stage" / "adapter")
    # as a train stage leaves it
    tokenizer.save_pretrained(tmp_path / "stage")
    assert merge(str(tmp_path / "stage"), str(base), Folder(tmp_path / "out")).check
    tokens = torch.tensor([[5, 300, 9, 301]])
    merged = load_model(str(tmp_path / "out"), "float32")
    with torch.no_grad():
        torch.testing.assert_close(merged(tokens).logits, model(tokens).logits, atol=1e-5, rtol=0)
    assert load_tokenizer(str(tmp_path / "out")).convert_tokens_to_ids("<|call|>") == 301


def test_an_adapter_of_another_model_or_of_none_is_refused(tmp_path, base, capsys):
    larger = tmp_path / "larger"
    tiny_model(vocab=300, hidden=32, layers=3).save_pretrained(larger)
    adapter(larger, tmp_path / "adapter")
    with pytest.raises(ArtifactError, match=r"14 of 42 tensors have no layer in"):
        merge(str(tmp_path / "adapter"), str(base), Folder(tmp_path / "out"))
    smaller = tmp_path / "smaller"
    tiny_model(vocab=300, hidden=32, layers=1).save_pretrained(smaller)
    with pytest.raises(ArtifactError, match=r"2 layers of .* should have an adapter and have none in the file"):
        adapter(smaller, tmp_path / "few", target_modules=["q_proj", "v_proj"])
        merge(str(tmp_path / "few"), str(base), Folder(tmp_path / "out"))
    wide = tmp_path / "wide"
    tiny_model(vocab=300, hidden=64).save_pretrained(wide)
    with pytest.raises(ArtifactError, match=r"peft cannot put this adapter beside .* size mismatch"):
        adapter(wide, tmp_path / "fat")
        merge(str(tmp_path / "fat"), str(base), Folder(tmp_path / "out"))
    with pytest.raises(ArtifactError, match=r"no adapter is here: there is no adapter_config.json"):
        merge(str(base), str(base), Folder(tmp_path / "out"))
    assert main(["merge", str(tmp_path / "adapter"), str(base), str(larger)]) == 1
    assert "this folder is not empty" in capsys.readouterr().err
    assert not Folder(tmp_path / "out").files()


def test_what_this_machine_cannot_hold_is_merged_unchecked_or_refused(tmp_path, base, monkeypatch):
    monkeypatch.setattr("raylm.merge.free_memory", lambda: 1000)
    adapter(base, tmp_path / "adapter")
    with pytest.raises(ConfigError, match=r"must be held to compare the two(.|\n)*or add --unchecked"):
        merge(str(tmp_path / "adapter"), str(base), Folder(tmp_path / "out"))
    assert merge(str(tmp_path / "adapter"), str(base), Folder(tmp_path / "out"), checked=False).streamed
    adapter(base, tmp_path / "head", modules_to_save=["lm_head"])
    with pytest.raises(ConfigError, match="must be held to merge these layers"):
        merge(str(tmp_path / "head"), str(base), Folder(tmp_path / "other"), checked=False)
