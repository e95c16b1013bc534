"""Going on with an adapter that peft, or an earlier run, has written."""

from __future__ import annotations

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model

from raylm.core.errors import ArtifactError, ConfigError
from raylm.model.adapters.lora import Lora
from raylm.model.adapters.merging import is_part
from raylm.model.adapters.saved import fields_of
from tests.model.tiny import tiny_checkpoint, tiny_model

TOKENS = torch.tensor([[1, 7, 20, 33, 60]])


def base():
    return tiny_model(vocab=70, hidden=32, layers=2)


def written(folder, **options):
    """Somebody's adapter, and what the model says with it."""
    made = get_peft_model(base(), LoraConfig(r=3, lora_alpha=5, **{"target_modules": ["q_proj", "v_proj"], **options})).eval()
    torch.manual_seed(3)
    for p in made.parameters():
        if p.requires_grad:
            p.data += 0.05 * torch.randn_like(p)
    made.save_pretrained(str(folder))
    return made(TOKENS).logits.detach()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"target_modules": "all-linear", "use_dora": True, "use_rslora": True, "lora_dropout": 0.1},
        {"target_modules": r".*\.q_proj", "init_lora_weights": "gaussian", "rank_pattern": {"q_proj": 2}},
        {"trainable_token_indices": [5, 9], "layers_to_transform": 1},
        {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
        {"init_lora_weights": "pissa"},
    ],
    ids=str,
)
def test_somebody_elses_adapter_goes_on_where_it_was(tmp_path, options):
    logits = written(tmp_path / "theirs", **options)
    card = Lora(path="theirs", loraplus_lr_ratio=2.0, dropout=0.2).opened(str(tmp_path / "theirs"), "")
    assert (card.rank, card.alpha, card.dropout, card.loraplus_lr_ratio) == (3, 5, 0.2, 2.0)
    model = card.attach(base(), 0).eval()
    torch.testing.assert_close(model(TOKENS).logits, logits, atol=1e-5, rtol=0)
    assert all(is_part(name) == p.requires_grad for name, p in model.named_parameters())
    plain = base().eval()
    plain.load_state_dict(dict(card.merge(model, model.state_dict().items())))
    torch.testing.assert_close(plain(TOKENS).logits, logits, atol=1e-5, rtol=0)
    # and it is written as something to go on with again
    parts = {name: tensor for name, tensor in model.state_dict().items() if is_part(name)}
    card.save(model, parts, "base", tmp_path / "ours" / "adapter")
    again = Lora(path="x").opened(str(tmp_path / "ours"), "").attach(base(), 0).eval()
    torch.testing.assert_close(again(TOKENS).logits, logits, atol=1e-5, rtol=0)


def test_what_differs_is_refused_by_name(tmp_path):
    written(tmp_path / "theirs")
    with pytest.raises(ConfigError, match=r"has alpha = 5, not 16; rank = 3, not 8\n.*drop alpha, rank"):
        Lora(path="x", rank=8, alpha=16).opened(str(tmp_path / "theirs"), "")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"peft_type": "IA3"}, "is IA3, not LORA"),
        ({"bias": "all", "layer_replication": [[0, 1]]}, r"uses bias = 'all', layer_replication = \[\[0, 1\]\], which is not"),
        ({"of_a_later_version": 3}, "uses of_a_later_version = 3"),
        ({"init_lora_weights": "loftq"}, "began as loftq"),
        ({"init_lora_weights": "corda"}, "began as corda"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(tmp_path, changes, said):
    written(tmp_path)
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(ConfigError, match=said):
        Lora(path="x").opened(str(tmp_path), "")


def test_an_adapter_of_another_model_is_refused(tmp_path):
    written(tmp_path)
    card = Lora(path="x").opened(str(tmp_path), "")
    with pytest.raises(ConfigError, match="does not fit this model"):
        card.attach(tiny_model(vocab=70, hidden=64, layers=2), 0)
    with pytest.raises(ConfigError, match=r"does not fit this model: .* tensors are left over or missing"):
        card.attach(tiny_model(vocab=70, hidden=32, layers=1), 0)
    with pytest.raises(ArtifactError, match="no adapter here"):
        fields_of(str(tmp_path / "nowhere"))
    (tmp_path / "adapter_model.safetensors").rename(tmp_path / "adapter_model.bin")
    with pytest.raises(ArtifactError, match="a pickle"):
        fields_of(str(tmp_path))


def test_weights_that_have_it_merged_already_are_refused(tmp_path):
    start = tiny_checkpoint(tmp_path / "start", hidden=32, layers=1)
    other = tiny_checkpoint(tmp_path / "sft", hidden=32, layers=1, seed=1)
    from raylm.model.load import load_model

    model = Lora(modules=["q_proj"]).attach(load_model(str(start)), 0)
    parts = {name: tensor for name, tensor in model.state_dict().items() if is_part(name)}
    Lora(modules=["q_proj"]).save(model, parts, str(start), other / "adapter")
    with pytest.raises(ConfigError, match=r"have the adapter merged into them; it stands beside .*start"):
        Lora(path="sft").opened(str(other), str(other))
    third = tiny_checkpoint(tmp_path / "third", hidden=32, layers=1, seed=2)
    with pytest.raises(ConfigError, match=r"stands beside .*start, not beside these: .*q_proj.weight is another matrix"):
        Lora(path="sft").opened(str(other), str(third))
    assert Lora(path="sft").opened(str(other), str(start)).rank == 8
