"""Frozen parts: which, what is refused, and what is trained of the rest."""

from __future__ import annotations

import pytest

from raylm.core.errors import ConfigError
from raylm.model.freezing import freeze_parts
from raylm.model.name_patterns import fits
from tests.model.tiny import tiny_model


def trained(freeze=(), unfrozen=(), tied=True) -> set[str]:
    model = tiny_model(vocab=70, hidden=32, layers=3)
    if not tied:
        model.lm_head.weight = type(model.lm_head.weight)(model.lm_head.weight.detach().clone())
    freeze_parts(model, list(freeze), list(unfrozen))
    return {name for name, p in model.named_parameters() if p.requires_grad}


def test_patterns_mean_parts_of_names():
    name = "base_model.model.model.layers.11.mlp.up_proj.weight"
    for pattern in (
        "mlp",
        "layers.0-11",
        "layers.11",
        "layers.*.mlp",
        "*_proj",
        "layers.1?.mlp.up_proj",
        r"layers\.\d+\.",
        "^model.",
    ):
        assert fits(pattern, name), pattern
    for pattern in ("layers.0-10", "layers.1", "proj", "layers.mlp", "^layers", "layer"):
        assert not fits(pattern, name), pattern


def test_what_is_named_is_frozen():
    every = trained()
    assert every - trained(["layers.0-1"]) == {name for name in every if ".layers.0." in name or ".layers.1." in name}
    assert every - trained(["embed_tokens"], tied=False) == {"model.embed_tokens.weight"}
    assert every - trained(["embed_tokens", "lm_head"]) == {"model.embed_tokens.weight"}
    assert trained(unfrozen=["layers.2.mlp", r"norm\.weight$"]) == {
        n for n in every if ".2.mlp." in n or n.endswith("norm.weight")
    }


@pytest.mark.parametrize(
    ("freeze", "unfrozen", "said"),
    [
        (["embed_tokns"], [], "no parameter of the model is called 'embed_tokns'. Did you mean 'embed_tokens'"),
        (["layers.7-9"], [], "no parameter of the model is called 'layers.7-9'"),
        ([], ["layers.0.mpl"], "Did you mean 'mlp'"),
        (["(layers"], [], "is no regex"),
        (["*"], [], "nothing is left to train"),
        (["embed_tokens"], [], "are one weight: it is frozen under both names or under none"),
    ],
)
def test_patterns_that_mean_nothing_or_half_a_weight_are_refused(freeze, unfrozen, said):
    with pytest.raises(ConfigError, match=said):
        trained(freeze, unfrozen)
