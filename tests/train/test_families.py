"""Model families: loss, gradient, export and adapter of each are those of transformers and peft."""

from __future__ import annotations

import pytest
import torch

from raylm.core.errors import ConfigError
from raylm.data.batch import pad
from tests.model.tiny import tiny_tokenizer
from tests.train.families import FAMILIES
from tests.train.tiny_family import Family, fill_adapters, gradients, logits, own, own_loss, packed, rows, save_tiny


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer(300)


@pytest.mark.parametrize("kind", [k if row.ordinary else pytest.param(k, marks=pytest.mark.long) for k, row in FAMILIES.items()])
def test_a_family_trains_as_transformers_says_or_is_refused(kind, tmp_path, tokenizer):
    row = FAMILIES[kind]
    save_tiny(kind, row.sizes, tmp_path, tokenizer)
    if row.refused:
        with pytest.raises(ConfigError, match=row.refused):
            Family(tmp_path, row.objective).loss(pad(*rows(), 0))
        return
    trains(row, tmp_path)
    adapts(row, tmp_path)
    if row.objective == "causal":
        keeps_apart(row, tmp_path)


def trains(row, folder):
    """Loss and gradients of whole rows are those of each row alone in transformers; what is exported gives the same logits."""
    family, theirs, padded = Family(folder, row.objective), own(folder), pad(*rows(), 0)
    found, expected = family.loss(padded), own_loss(theirs, family.objective, padded)
    assert found == pytest.approx(float(expected.detach()), abs=1e-5)
    expected.backward()
    ours = dict(gradients(family.engine.bare))
    for name, grad in gradients(theirs):
        assert name in ours or not grad.any(), f"{name} has no gradient"
        if name in ours:
            torch.testing.assert_close(ours[name], grad, atol=1e-5, rtol=1e-3, msg=name)
    family.engine.step()
    after = logits(family.engine.bare, row.objective)
    torch.testing.assert_close(logits(own(family.export()), row.objective), after, atol=1e-5, rtol=1e-4)


def adapts(row, folder):
    """The loss with adapters, and the logits of what they are folded into, are those of peft around transformers' own model."""
    from peft import LoraConfig, get_peft_model

    table = {"rank": 4, "alpha": 8, "modules": row.modules}
    if row.lora:
        with pytest.raises(ConfigError, match=row.lora):
            Family(folder, row.objective, adapter=table)
        return
    family, padded = Family(folder, row.objective, adapter=table), pad(*rows(), 0)
    theirs = get_peft_model(own(folder), LoraConfig(r=4, lora_alpha=8, target_modules=row.modules)).eval()
    fill_adapters(theirs)
    expected = float(own_loss(theirs, family.objective, padded).detach())
    assert family.loss(padded) == pytest.approx(expected, abs=1e-5)
    merged = logits(theirs.merge_and_unload(), row.objective)
    torch.testing.assert_close(logits(own(family.export()), row.objective), merged, atol=1e-4, rtol=1e-3)


def keeps_apart(row, folder):
    """The loss of three documents in one row is that of three rows."""
    if row.apart:
        with pytest.raises(ConfigError, match=row.apart):
            Family(folder, row.objective, document_mask=True)
        return
    family = Family(folder, row.objective, document_mask=True)
    expected = float(own_loss(own(folder), family.objective, pad(*rows(), 0)).detach())
    assert family.loss(packed(), learn=False) == pytest.approx(expected, abs=1e-5)
