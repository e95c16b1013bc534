"""The `masked_lm` objective: which tokens are masked, the loss against transformers, the same draws on any ranks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from raylm.core.errors import ConfigError
from raylm.core.storage import Folder
from raylm.data.batch import pad
from raylm.model.checkpoint import write_checkpoint
from raylm.model.load import load_model
from raylm.model.scores import ask
from raylm.model.shapes.bert import Bert
from raylm.parallel.strategies.ddp import Ddp
from raylm.parallel.strategies.fsdp import Fsdp
from raylm.train.objectives.masked_lm import MaskedLm, continues
from tests.model.tiny import tiny_tokenizer
from tests.parallel.loops import TOKENS
from tests.parallel.parity import assert_parity

CARD = {"kind": "masked_lm", "mask_id": 3, "vocab_size": 64, "special_ids": [0, 1, 2, 3]}
SHAPE = {"kind": "bert", "hidden_size": 32, "num_layers": 2, "num_heads": 2, "max_length": 64, "dropout": 0.0}


def padded(lengths=(40, 25), counts=None):
    rows = [np.random.default_rng(n).integers(4, 64, n) for n in lengths]
    return pad(rows, [np.ones(n) for n in lengths] if counts is None else counts, 0)


def test_the_mean_and_its_gradient_are_transformers_own():
    ours, theirs = (Bert(**SHAPE).build(TOKENS, 0) for _ in range(2))
    card, made = MaskedLm(**CARD), padded()
    inputs = card.inputs(made._replace(rows=(11, 12)), 5)
    loss = card.loss(ask(ours, inputs, card.asks()), inputs, made).total / inputs.weight_BT.sum()
    labels = made.tokens_BT.masked_fill(inputs.weight_BT == 0, -100)
    expected = theirs(**inputs.feed, labels=labels).loss
    torch.testing.assert_close(loss, expected, atol=1e-6, rtol=0)
    loss.backward()
    expected.backward()
    for (name, left), right in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(left.grad, right.grad, atol=1e-6, rtol=1e-4, msg=name)


def test_80_10_10_of_15_percent():
    made = padded((20_000,))
    inputs = MaskedLm(**CARD).inputs(made._replace(rows=(0,)), 0)
    asked = inputs.weight_BT[0] > 0
    read, true = inputs.feed["input_ids"][0][asked], made.tokens_BT[0][asked]
    hidden, kept = (read == 3).float().mean(), (read == true).float().mean()
    assert float(asked.float().mean()) == pytest.approx(0.15, abs=0.01)
    assert float(hidden) == pytest.approx(0.8, abs=0.03)
    # one in 64 of the tokens drawn at random is the true one
    assert float(kept) == pytest.approx(0.1, abs=0.03)
    assert inputs.feed["input_ids"][0][~asked].equal(made.tokens_BT[0][~asked])


def test_draws_depend_on_step_and_row_alone():
    card, both, second = MaskedLm(**CARD), padded((40, 25)), padded((25,))
    together, alone = card.inputs(both._replace(rows=(7, 8)), 9), card.inputs(second._replace(rows=(8,)), 9)
    assert together.feed["input_ids"][1, :25].equal(alone.feed["input_ids"][0])
    assert not card.inputs(second._replace(rows=(8,)), 10).feed["input_ids"].equal(alone.feed["input_ids"])
    assert not card.inputs(second._replace(rows=(7,)), 9).feed["input_ids"].equal(alone.feed["input_ids"])


def test_special_tokens_padding_and_filling_rows_are_not_asked_for():
    made = padded((40, 40, 30), [np.ones(40), np.zeros(40), np.ones(30)])
    made.tokens_BT[0, :20] = 2
    inputs = MaskedLm(**CARD, share=0.9).inputs(made, 0)
    assert inputs.weight_BT.sum(1).bool().tolist() == [True, False, True]
    assert not inputs.weight_BT[0, :20].any() and not inputs.weight_BT[2, 30:].any()


def test_whole_words_are_asked_for_or_none_of_their_pieces():
    tokenizer = tiny_tokenizer(300)
    card = MaskedLm(mask_id=3, whole_words=True, share=0.5).fitted("Tokens", tokenizer)
    tokens = np.array(tokenizer("the unforgettable representation of classes and modules")["input_ids"])
    words = np.cumsum([piece.startswith("\u0120") for piece in tokenizer.convert_ids_to_tokens(tokens.tolist())])
    assert len(words) > words[-1] + 1, "every word is one token"
    seen = set()
    for row in range(20):
        asked = card.inputs(pad([tokens], [np.ones(len(tokens))], 0)._replace(rows=(row,)), 0).weight_BT[0].numpy()
        assert all(len(set(asked[words == word])) == 1 for word in set(words))
        seen.add(tuple(asked))
    assert len(seen) > 10


def test_pieces_that_go_on_with_a_word():
    assert continues(["[CLS]", "un", "##for", "##get"]).tolist() == [False, False, True, True]
    assert continues(["\u2581un", "for", "\u0120the"]).tolist() == [False, True, False]


def test_what_the_tokenizer_knows_is_taken_from_it():
    tokenizer = tiny_tokenizer(300)
    with pytest.raises(ConfigError, match="no mask token"):
        MaskedLm().fitted("Tokens", tokenizer)
    tokenizer.add_special_tokens({"mask_token": "<|mask|>"})
    card = MaskedLm().fitted("Tokens", tokenizer)
    assert (card.mask_id, card.vocab_size) == (300, 301) and {0, 1, 2, 300} <= set(card.special_ids or ())


@pytest.mark.parametrize("strategy", [Ddp(), Fsdp()], ids=repr)
def test_two_ranks_do_what_one_does(strategy):
    assert_parity(2, strategy, model=SHAPE, objective=CARD, kind="Tokens", activation_checkpointing="full")


def test_a_checkpoint_is_loaded_as_what_it_is(tmp_path):
    model = Bert(**SHAPE).build({**TOKENS, "vocab_size": 300}, 0).eval()
    tiny_tokenizer(300).save_pretrained(tmp_path / "tokenizer")
    write_checkpoint(Folder(tmp_path / "out"), model.config, dict(model.state_dict()), str(tmp_path / "tokenizer"))
    again = load_model(str(tmp_path / "out")).eval()
    tokens_BT = torch.arange(20).view(2, 10)
    assert type(again) is type(model)
    torch.testing.assert_close(again(tokens_BT).logits, model(tokens_BT).logits)
