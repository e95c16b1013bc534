"""LoRA beside a base in 4 bits: trained as peft trains it, merged into what the 4 bits stand for."""

from __future__ import annotations

import json

import pytest
import torch

from raylm.core.errors import ConfigError
from raylm.core.storage import Folder
from raylm.model.adapters.qlora import Qlora
from raylm.model.linear_4bit import layers_of
from raylm.parallel.checkpoints.whole import whole_tensors
from tests.model.tiny import tiny_checkpoint, tiny_model


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    at = tmp_path_factory.mktemp("base")
    return str(tiny_checkpoint(at, hidden=64, layers=2, vocab=320))


def in_4_bits(base, card):
    """The base by transformers and bitsandbytes."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    how = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=card.quant_type, bnb_4bit_use_double_quant=card.double_quant)
    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, quantization_config=how)


def peers(base, card):
    """The same start by transformers and peft."""
    from peft import get_peft_model

    model = in_4_bits(base, card)
    torch.manual_seed(1)
    return get_peft_model(model, card.peft_config())


def learn(model, steps):
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer, losses = torch.optim.AdamW(trained, lr=5e-3), []
    tokens_BT = torch.randint(6, 300, (6, 24), generator=torch.Generator().manual_seed(3))
    # in evaluation bitsandbytes computes in bfloat16 on some CPUs
    model.train()
    for _ in range(steps):
        loss = model(input_ids=tokens_BT, labels=tokens_BT).loss
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return losses


TABLES = [{}, {"quant_type": "fp4", "double_quant": False, "use_rslora": True}, {"use_dora": True}]


@pytest.mark.parametrize("table", TABLES, ids=str)
def test_it_learns_as_peft_does_step_by_step(base, table):
    card = Qlora(rank=4, alpha=8, **table)
    ours, theirs = card.attach(card.load_base(base, "float32"), seed=1), peers(base, card)
    starts = {name: p for name, p in theirs.named_parameters() if p.requires_grad}
    for name, p in ours.named_parameters():
        if p.requires_grad:
            assert p.equal(starts[name]) and p.dtype == torch.float32
    found, expected = learn(ours, 6), learn(theirs, 6)
    assert found == pytest.approx(expected, abs=1e-6) and found[-1] < found[0] - 0.1


@pytest.mark.parametrize("stored", ["float32", "bfloat16", "4 bits"])
def test_merged_it_is_what_was_trained(base, tmp_path, stored):
    """Within 1e-3 in loss; merged into the weights that the 4 bits were made of, the usual way, it is far from it."""
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    from raylm.merge import merge
    from raylm.parallel.assemble import assemble
    from raylm.train.config import Train
    from raylm.trainer.export import write_streamed

    at, out = tmp_path / "base", tmp_path / "out"
    if stored == "4 bits":
        in_4_bits(base, Qlora()).save_pretrained(at)
    else:
        AutoModelForCausalLM.from_pretrained(base, dtype=getattr(torch, stored)).save_pretrained(at)
    for file in Folder(base).local().glob("token*"):
        (at / file.name).write_bytes(file.read_bytes())
    cfg = Train(
        stage="train", rows="r", model=str(at), batch=4, steps=40, strategy={"kind": "ddp"}, adapter={"kind": "qlora", "rank": 8}
    )
    card = cfg.adapter
    engine = assemble(card.attach(card.load_base(str(at), "float32"), 0).train(), cfg, 40)
    learned_losses = learn(engine.bare, 40)
    learned = {name: p.detach().clone() for name, p in engine.bare.named_parameters() if p.requires_grad}
    write_streamed(engine, Folder(out), engine.bare.config, str(at), card, str(at))
    assert all(p.equal(learned[name]) for name, p in engine.bare.named_parameters() if p.requires_grad)
    merged = AutoModelForCausalLM.from_pretrained(out, dtype="auto")
    assert merged.dtype == (torch.bfloat16 if stored == "bfloat16" else torch.float32)
    assert "quantization_config" not in json.loads((out / "config.json").read_text())
    plain = AutoModelForCausalLM.from_pretrained(base if stored == "4 bits" else at, dtype="auto")
    usual = PeftModel.from_pretrained(plain, str(out / "adapter"))
    tokens_BT = torch.randint(6, 300, (6, 24), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        now = float(engine.bare(input_ids=tokens_BT, labels=tokens_BT).loss)
        assert now < learned_losses[0] - 1
        drift = float(merged(input_ids=tokens_BT, labels=tokens_BT).loss) - now
        usual_drift = float(usual.merge_and_unload()(input_ids=tokens_BT, labels=tokens_BT).loss) - now
    assert abs(drift) < (1e-3 if stored == "bfloat16" else 1e-5)
    assert usual_drift > 1e-2
    if stored == "4 bits":
        return
    # `raylm merge` knows by a file beside the adapter what it stands beside
    assert merge(str(out / "adapter"), str(at), Folder(tmp_path / "again")).streamed
    again, merged = (load_file(folder / "model.safetensors") for folder in (tmp_path / "again", out))
    assert again.keys() == merged.keys() and all(tensor.equal(merged[name]) for name, tensor in again.items())


def test_a_new_model_is_put_into_4_bits_and_streamed_as_matrices():
    card, plain = Qlora(rank=2), tiny_model(vocab=70, hidden=32, layers=2)
    whole = {name: p.clone() for name, p in plain.state_dict().items()}
    model = card.attach(plain, 0)
    assert len(layers_of(model)) == 14
    assert card.in_words(model).startswith("14 matrices of the base are stored in nf4, 1.")
    assert card.in_words(model).endswith("GB; not in 4 bits: embed_tokens (float32)")
    merged = dict(card.merge(model, whole_tensors(model)))
    assert merged.keys() == whole.keys() and all(merged[name].shape == whole[name].shape for name in whole)
    for name, tensor in merged.items():
        far = float((tensor - whole[name]).norm() / whole[name].norm())
        # relative error of NF4 of normally distributed weights
        assert (0.08 < far < 0.11) if "proj" in name else far == 0, name


def test_layers_without_an_adapter_are_in_4_bits_too():
    card = Qlora(rank=2, modules=["q_proj"])
    model = card.attach(tiny_model(vocab=70, hidden=32, layers=1), 0)
    assert len(layers_of(model)) == 7 and sum(p.requires_grad for p in model.parameters()) == 2
    with pytest.raises(ConfigError, match=r"no layers called nothing[\s\S]*down_proj"):
        Qlora(modules=["nothing"]).attach(tiny_model(vocab=70, hidden=32, layers=1), 0)


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_starts_that_change_the_base_are_refused(start):
    with pytest.raises(ValueError, match="would have to be rounded anew"):
        Qlora(init_lora_weights=start)
