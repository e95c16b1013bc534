"""Value heads: values of tokens and of sequences against transformers' own classifier, saved and loaded again."""

from __future__ import annotations

import copy
import io
import pickle

import numpy as np
import pytest
import torch

from raylm.core.errors import ConfigError
from raylm.core.storage import Folder
from raylm.data.batch import pad
from raylm.model.checkpoint import write_checkpoint
from raylm.model.head import Asks
from raylm.model.load import kind_of_model, load_model
from raylm.model.scores import ask, causal, last_token
from raylm.model.value_head import with_value_head
from tests.model.tiny import tiny_checkpoint, tiny_model

ROWS = [np.array([5, 9, 60]), np.array([7, 8, 9, 10, 11])]
VALUES = Asks(values=True)


def reward_model(seed: int = 3):
    model = with_value_head(tiny_model(vocab=70, hidden=32, layers=2), seed)
    model.score.weight.data.mul_(20)
    return model


def test_values_are_those_of_each_sequence_alone_and_of_its_last_token():
    model, batch = reward_model().eval(), pad(ROWS, [np.ones(3), np.ones(5)], 0)
    of_tokens, of_rows = ask(model, causal(batch), VALUES), ask(model, last_token(batch), VALUES)
    for row, tokens in enumerate(ROWS):
        hidden_TD = model.model(torch.tensor(tokens)[None]).last_hidden_state[0]
        value_T = (hidden_TD @ model.score.weight.T)[:, 0]
        # the value of the state in front of each token that counts
        torch.testing.assert_close(of_tokens.value_BT[row, : len(tokens) - 1], value_T[:-1], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(of_rows.value_B[row], value_T[-1], atol=1e-5, rtol=1e-5)
    assert of_rows.logprob_BT is None and float(of_tokens.value_BT[0, 2:].detach().abs().max()) == 0


def test_a_constant_state_gives_the_sum_of_the_head_by_hand():
    model = reward_model()
    model.score.weight.data.fill_(0.5)
    model.model.norm.weight.data.zero_()
    assert ask(model, last_token(pad(ROWS, [np.ones(3), np.ones(5)], 0)), VALUES).value_B.tolist() == [0.0, 0.0]
    model.model.norm.weight.data.fill_(1.0)
    hidden_D = model.model(torch.tensor(ROWS[0])[None]).last_hidden_state[0, -1]
    found = ask(model, last_token(pad(ROWS[:1], [np.ones(3)], 0)), VALUES).value_B
    assert float(found.detach()) == pytest.approx(0.5 * float(hidden_D.detach().sum()), rel=1e-4)


def test_it_is_transformers_own_reward_model_saved_and_loaded_again(tmp_path):
    from transformers import AutoModelForSequenceClassification

    at = tiny_checkpoint(tmp_path / "base", vocab=300)
    model = with_value_head(load_model(str(at)), 3).eval()
    batch = pad([row % 300 for row in ROWS], [np.ones(3), np.ones(5)], 0)
    expected = ask(model, last_token(batch), VALUES).value_B
    write_checkpoint(Folder(str(tmp_path / "reward")), model.config, model.state_dict(), str(at), start=str(at))
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "reward").eval()
    found = theirs(input_ids=batch.tokens_BT, attention_mask=batch.attend_BT).logits[:, 0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    again = load_model(str(tmp_path / "reward"), value_head=True)
    assert kind_of_model(again.config) == "reward" and type(again).__name__ == "LlamaForSequenceClassification"
    torch.testing.assert_close(ask(with_value_head(again, 0), last_token(batch), VALUES).value_B, expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(ConfigError, match="reward model"):
        load_model(str(tmp_path / "reward"))


def test_copies_and_travels():
    model, batch = reward_model(), pad(ROWS, [np.ones(3), np.ones(5)], 0)
    expected = ask(with_value_head(model, 0), last_token(batch), VALUES).value_B
    fresh = reward_model()
    for made in (copy.deepcopy(fresh), pickle.load(io.BytesIO(pickle.dumps(fresh)))):
        torch.testing.assert_close(ask(made, last_token(batch), VALUES).value_B, expected)
    assert reward_model(4).score.weight.ne(fresh.score.weight).any()


def test_a_head_is_asked_for_what_it_has():
    batch = pad(ROWS, [np.ones(3), np.ones(5)], 0)
    with pytest.raises(ConfigError, match="without a value head"):
        ask(tiny_model(vocab=70, hidden=32, layers=1), causal(batch), VALUES)
    with pytest.raises(ConfigError, match="a model with a value head"):
        ask(reward_model(), causal(batch))
    with pytest.raises(ConfigError, match="80 likeliest of 70"):
        ask(tiny_model(vocab=70, hidden=32, layers=1), causal(batch), Asks(top_k=80))
