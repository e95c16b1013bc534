"""The `seq2seq` objective: spans are replaced by sentinels, and the loss against transformers."""

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
from raylm.model.shapes.t5 import T5
from raylm.parallel.strategies.ddp import Ddp
from raylm.parallel.strategies.fsdp import Fsdp
from raylm.train.objectives.seq2seq import Seq2Seq
from tests.model.tiny import tiny_tokenizer
from tests.parallel.loops import TOKENS
from tests.parallel.parity import assert_parity

SENTINELS = list(range(200, 300))
SPANS = {"kind": "seq2seq", "task": "spans", "sentinel_ids": SENTINELS, "start_id": 0, "end_id": 2}
ANSWERS = {"kind": "seq2seq", "task": "answers", "start_id": 0, "end_id": 2}
SHAPE = {"kind": "t5", "hidden_size": 32, "num_layers": 1, "num_heads": 2}


def spans(length, row=0, **fields):
    """What encoder and decoder get of a row of `length` tokens, without padding."""
    made = pad([np.arange(3, 3 + length)], [np.ones(length)], 0)
    inputs = Seq2Seq(**SPANS | fields).inputs(made._replace(rows=(row,)), 4)
    return inputs.feed["input_ids"][0].tolist(), inputs.target_BT[0].tolist()


def joined(source, target):
    """The row again: each sentinel of the source gives way to what follows it in the target."""
    cut, last = {}, None
    for token in target[:-1]:
        if token in SENTINELS:
            cut[last := token] = []
        else:
            cut[last].append(token)
    return [one for token in source for one in (cut[token] if token in SENTINELS else [token])]


@pytest.mark.parametrize("length", [2, 3, 7, 50, 180])
def test_source_and_target_make_the_row_again(length):
    source, target = spans(length)
    assert joined(source, target) == list(range(3, 3 + length))
    assert target[-1] == 2 and source[0] == 3, "a row begins with what is kept"
    met = [token for token in source if token in SENTINELS]
    assert met == SENTINELS[: len(met)]
    assert [token for token in target if token in SENTINELS] == SENTINELS[: len(met) + 1]


def test_shares_and_lengths_are_those_of_t5():
    """180 tokens at 15 % and 3 a span: 27 tokens in 9 spans."""
    source, target = spans(180)
    assert sum(token in SENTINELS for token in source) == 9
    assert len(source) == 180 - 27 + 9 and len(target) == 27 + 10 + 1
    assert spans(180, row=1) != (source, target)


def test_few_sentinels_make_fewer_and_longer_spans():
    source, target = spans(180, sentinel_ids=[200, 201, 202])
    assert sum(token in SENTINELS for token in source) == 2 and len(target) == 27 + 3 + 1
    assert joined(source, target) == list(range(3, 183))


def test_the_decoder_writes_what_counts_in_a_dialogue():
    rows, masks = [np.array([5, 6, 7, 8, 9]), np.array([4, 4, 3])], [np.array([0, 0, 1, 0, 1]), np.zeros(3)]
    inputs = Seq2Seq(**ANSWERS).inputs(pad(rows, masks, 0), 0)
    assert inputs.feed["input_ids"].tolist() == [[5, 6, 8], [4, 4, 3]]
    assert inputs.feed["decoder_input_ids"].tolist() == [[0, 7], [0, 0]]
    assert inputs.target_BT[0].tolist() == [7, 9] and inputs.weight_BT.tolist() == [[1, 1], [0, 0]]


def test_the_mean_and_its_gradient_are_transformers_own():
    ours, theirs = (T5(**SHAPE).build({**TOKENS, "vocab_size": 300}, 0) for _ in range(2))
    made = pad([np.arange(3, 40), np.arange(50, 70)], [np.ones(37), np.ones(20)], 0)
    card = Seq2Seq(**SPANS)
    inputs = card.inputs(made, 0)
    loss = card.loss(ask(ours, inputs, card.asks()), inputs, made).total / inputs.weight_BT.sum()
    labels = inputs.target_BT.masked_fill(inputs.weight_BT == 0, -100)
    feed = {name: value for name, value in inputs.feed.items() if name != "decoder_input_ids"}
    expected = theirs(**feed, labels=labels).loss
    torch.testing.assert_close(loss, expected, atol=1e-6, rtol=1e-6)
    loss.backward()
    expected.backward()
    for (name, left), right in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(left.grad, right.grad, atol=1e-5, rtol=1e-4, msg=name)


def test_what_the_tokenizer_knows_is_taken_from_it():
    tokenizer = tiny_tokenizer(300)
    with pytest.raises(ConfigError, match="no sentinels"):
        Seq2Seq().fitted("Tokens", tokenizer)
    assert Seq2Seq().fitted("Dialogues", tokenizer).task == "answers"
    tokenizer.add_tokens(["<extra_id_0>", "<extra_id_1>"], special_tokens=True)
    card = Seq2Seq().fitted("Tokens", tokenizer)
    assert (card.task, card.sentinel_ids, card.start_id, card.end_id) == ("spans", (300, 301), None, 2)


def test_the_decoder_begins_as_the_model_says():
    from transformers import (
        BartConfig,
        BartForConditionalGeneration,
        GenerationConfig,
        MBartConfig,
        MBartForConditionalGeneration,
    )

    sizes = {"vocab_size": 50, "d_model": 16, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    sizes |= {f"{of}_{name}": 2 for of in ("encoder", "decoder") for name in ("layers", "attention_heads", "ffn_dim")}
    bart = BartForConditionalGeneration(BartConfig(**sizes, decoder_start_token_id=7))
    assert Seq2Seq().for_model(bart).start_id == 7, "not its padding"
    assert Seq2Seq(start_id=9).for_model(bart).start_id == 9
    bart.config.decoder_start_token_id, bart.generation_config = None, GenerationConfig(decoder_start_token_id=5)
    assert Seq2Seq().for_model(bart).start_id == 5
    # mBART shifts the last token, a language's code, to the front: what its config names is taken, and nothing guessed
    for named in (2, None):
        mbart = MBartForConditionalGeneration(MBartConfig(**sizes, decoder_start_token_id=named))
        if named:
            assert Seq2Seq().for_model(mbart).start_id == named
            continue
        mbart.generation_config = None
        with pytest.raises(ConfigError, match=r"mbart: neither config.json nor .*\n.*objective.start_id"):
            Seq2Seq().for_model(mbart)


@pytest.mark.parametrize(
    ("strategy", "card", "kind"), [(Ddp(), SPANS, "Tokens"), (Fsdp(), SPANS, "Tokens"), (Fsdp(), ANSWERS, "Dialogues")]
)
def test_two_ranks_do_what_one_does(strategy, card, kind):
    card = {**card, "sentinel_ids": list(range(50, 64))}
    # a large eps: else Adam makes steps of full length of gradients that are rounding errors, of tokens that are hardly met
    optimizer = {"kind": "adamw", "lr": 1e-2, "eps": 1e-3}
    assert_parity(2, strategy, model=SHAPE, objective=card, kind=kind, activation_checkpointing="full", optimizer=optimizer)


def test_a_checkpoint_is_loaded_as_what_it_is(tmp_path):
    model = T5(**SHAPE).build({**TOKENS, "vocab_size": 300}, 0).eval()
    tiny_tokenizer(300).save_pretrained(tmp_path / "tokenizer")
    write_checkpoint(Folder(tmp_path / "out"), model.config, dict(model.state_dict()), str(tmp_path / "tokenizer"))
    again = load_model(str(tmp_path / "out")).eval()
    tokens_BT = torch.arange(20).view(2, 10)
    assert type(again) is type(model)
    left, right = (of(tokens_BT, decoder_input_ids=tokens_BT).logits for of in (again, model))
    torch.testing.assert_close(left, right)
