"""Log-probabilities from the head: every backend against transformers' logits: tied, masked, peft, encoder-decoder."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from raylm.core.errors import ConfigError
from raylm.model.compiler import compiler_missing
from raylm.model.head import Asks, backend_on, check_backend, head_of
from raylm.model.scores import Inputs, ask
from raylm.model.shapes.bert import Bert
from raylm.model.shapes.t5 import T5
from tests.model.tiny import tiny_model

BACKENDS = ["plain", "chunked", pytest.param("fused", marks=pytest.mark.slow), "auto"]


def asked(vocab=70):
    draw = torch.Generator().manual_seed(5)
    tokens_BT, target_BT = (torch.randint(0, vocab, (3, 9), generator=draw) for _ in range(2))
    weight_BT = (torch.rand(3, 9, generator=draw) > 0.5).float()
    return Inputs({"input_ids": tokens_BT}, target_BT, weight_BT)


def expected(model, inputs, temperature=1.0):
    logits_BTV = model(**inputs.feed).logits.double() / temperature
    logprob_BT = logits_BTV.log_softmax(-1).gather(-1, inputs.target_BT[..., None])[..., 0]
    return logprob_BT, logits_BTV.logsumexp(-1)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("linear", [True, False])
def test_scores_and_gradients_are_those_of_all_logits(backend, linear):
    """The matrix is tied to the embedding: both gradients must add up."""
    ours, theirs = (tiny_model(vocab=70, hidden=32, layers=1) for _ in range(2))
    inputs = asked()
    scores = ask(ours, inputs, Asks(temperature=0.8, linear=linear, z_loss=0.01), backend)
    logprob_BT, lse_BT = expected(theirs, inputs, 0.8)
    counts = inputs.weight_BT > 0
    for found, right in ((scores.logprob_BT, logprob_BT), (scores.lse_BT, lse_BT)):
        torch.testing.assert_close(found[counts].double(), right[counts], atol=1e-5, rtol=1e-5)
        assert not found[~counts].any()
    for logprobs, lse in ((scores.logprob_BT, scores.lse_BT), (logprob_BT, lse_BT)):
        ((-logprobs + 0.01 * lse.square()) * inputs.weight_BT).sum().mul(0.3).backward()
    for (name, left), right in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(left.grad, right.grad, atol=1e-5, rtol=1e-4, msg=name)


def test_the_likeliest_tokens_are_those_of_all_logits(monkeypatch):
    """Tied head, and one that caps its logits; in chunks, and in one."""
    from raylm.model import cross_entropy

    for model in (tiny_model(vocab=70, hidden=32, layers=1), changing("gemma2"), changing("granite")):
        inputs = asked()
        counts = inputs.weight_BT > 0
        logprob_BTV = (model(**inputs.feed).logits.double() / 0.8).log_softmax(-1)
        top_BTK, id_BTK = logprob_BTV.topk(4)
        for size in (5, 1024):
            monkeypatch.setattr(cross_entropy, "chunk_tokens", lambda *_, size=size: size)
            scores = ask(model, inputs, Asks(top_k=4, temperature=0.8))
            assert scores.top_id_BTK[counts].equal(id_BTK[counts])
            torch.testing.assert_close(scores.top_logprob_BTK[counts].double(), top_BTK[counts], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(
                scores.logprob_BT[counts].double(), expected(model, inputs, 0.8)[0][counts], atol=1e-5, rtol=1e-5
            )
            assert not scores.top_logprob_BTK.requires_grad
            rest_BT = logprob_BTV.scatter(2, id_BTK, -torch.inf).logsumexp(2)
            torch.testing.assert_close(scores.rest_logprob_BT[counts].double(), rest_BT[counts], atol=1e-5, rtol=1e-5)
            few = ask(model, inputs, Asks(top_k=4, temperature=0.8, words=9)).top_id_BTK[counts]
            assert few.equal(logprob_BTV[..., :9].topk(4)[1][counts])


@pytest.mark.parametrize("backend", ["plain", "chunked"])
def test_rows_without_a_target_pass_through(backend):
    model, inputs = tiny_model(vocab=70, hidden=32, layers=1), asked()
    inputs.weight_BT.zero_()
    scores = ask(model, inputs, Asks(linear=True), backend)
    (scores.logprob_BT * inputs.weight_BT).sum().backward()
    assert float(model.lm_head.weight.grad.abs().max()) == 0


def test_targets_that_do_not_count_need_no_logits(monkeypatch):
    from raylm.model import cross_entropy

    seen, inner = [], cross_entropy.chunked
    monkeypatch.setattr(cross_entropy, "chunked", lambda hidden_ND, *rest: seen.append(len(hidden_ND)) or inner(hidden_ND, *rest))
    inputs = asked()
    ask(tiny_model(vocab=70, hidden=32, layers=1), inputs, Asks(linear=True))
    assert seen == [int(inputs.weight_BT.sum())]


def test_the_model_still_gives_logits():
    model, inputs = tiny_model(vocab=70, hidden=32, layers=1), asked()
    before = model(**inputs.feed).logits
    ask(model, inputs)
    torch.testing.assert_close(model(**inputs.feed).logits, before, rtol=0, atol=0)
    assert head_of(model) is model.lm_head and "lm_head.weight" in model.state_dict()


def test_a_masked_language_model_and_an_encoder_decoder_give_log_probabilities_alike():
    tokens = {"vocab_size": 70, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    bert: Any = Bert(hidden_size=32, num_layers=1, num_heads=2).build(tokens, 0).eval()
    t5 = T5(hidden_size=32, num_layers=1, num_heads=2).build(tokens, 0).eval()
    torch.nn.init.normal_(bert.cls.predictions.bias)
    for model, more in ((bert, {}), (t5, {"decoder_input_ids": torch.randint(0, 70, (3, 9))})):
        inputs = asked()
        inputs.feed.update(more)
        counts = inputs.weight_BT > 0
        found, right = ask(model, inputs).logprob_BT[counts].double(), expected(model, inputs)[0][counts]
        torch.testing.assert_close(found, right, atol=1e-5, rtol=1e-5)


SMALL: dict[str, Any] = {
    "vocab_size": 70, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 16, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
CHANGING = {
    "gemma2": {"final_logit_softcapping": 0.3, "query_pre_attn_scalar": 16},
    "gemma3_text": {"final_logit_softcapping": 0.3, "query_pre_attn_scalar": 16},
    "nanochat": {"final_logit_softcapping": 0.3},
    "cohere2": {"logit_scale": 0.25},
    "granite": {"logits_scaling": 8.0},
}


def changing(kind):
    """A model of the family `kind` whose logits are large beside its cap."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(3)
    config = AutoConfig.for_model(kind, **SMALL, **CHANGING[kind])
    model: Any = AutoModelForCausalLM.from_config(config, attn_implementation="eager").train()
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(4.0)
    return model


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", CHANGING)
def test_what_a_model_makes_of_its_logits_is_made_of_each_chunk(kind, backend, linear):
    ours, theirs, inputs = changing(kind), changing(kind), asked()
    before = ours(**inputs.feed).logits
    scores = ask(ours, inputs, Asks(temperature=0.8, linear=linear, z_loss=0.01), backend)
    right = expected(theirs, inputs, 0.8)
    assert (
        float(
            (before / 0.8 - torch.nn.functional.linear(theirs.model(**inputs.feed)[0], ours.lm_head.weight)).detach().abs().max()
        )
        > 0.1
    )
    counts = inputs.weight_BT > 0
    for found, each in zip((scores.logprob_BT, scores.lse_BT), right, strict=True):
        torch.testing.assert_close(found[counts].double(), each[counts], atol=1e-5, rtol=1e-5)
    for logprobs, lse in ((scores.logprob_BT, scores.lse_BT), right):
        ((-logprobs + 0.01 * lse.square()) * inputs.weight_BT).sum().backward()
    for (name, left), each in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(left.grad, each.grad, atol=1e-5, rtol=1e-4, msg=name)
    # outside of a question the model is as it was
    torch.testing.assert_close(ours(**inputs.feed).logits, before, rtol=0, atol=0)


def test_adapters_around_a_model_that_caps_its_logits():
    from peft import LoraConfig, get_peft_model

    plain, inputs = changing("gemma2"), asked()
    right = expected(plain, inputs)[0]
    around = get_peft_model(plain, LoraConfig(r=2, target_modules=["q_proj"]))
    counts = inputs.weight_BT > 0
    torch.testing.assert_close(ask(around, inputs).logprob_BT[counts].double(), right[counts], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("setting", ["lm_head_multiplier", "logits_soft_cap", "logit_scale", "unpadded_vocab_size"])
def test_a_change_of_logits_that_is_not_known_is_refused(setting):
    model = tiny_model(vocab=70, hidden=32, layers=1)
    setattr(model.config, setting, 2)
    with pytest.raises(ConfigError, match=setting):
        head_of(model)


def test_a_model_that_changes_its_logits_without_a_word_is_found_out():
    """RecurrentGemma's kind: the setting is not known, the answer of the head comes back bent. And one with another head."""
    model, inputs = tiny_model(vocab=70, hidden=32, layers=1), asked()
    inner = model.forward

    def bent(**feed):
        out = inner(**feed)
        out.logits = out.logits.tanh()
        return out

    model.forward = bent
    with pytest.raises(ConfigError, match="changes what its output layer returns"):
        ask(model, inputs)
    model.forward = lambda **feed: SimpleNamespace(logits=torch.zeros(3, 9, 2))
    with pytest.raises(ConfigError, match="changes what its output layer returns"):
        ask(model, inputs)


def test_a_rung_that_cannot_run_is_refused(monkeypatch):
    from torch._inductor import config

    assert backend_on("cpu") == "chunked"
    monkeypatch.setattr(config.cpp, "cxx", ("no-such-compiler",))
    compiler_missing.cache_clear()
    with pytest.raises(ConfigError, match="no C\\+\\+ compiler among no-such-compiler"):
        check_backend("fused", "cpu")
    compiler_missing.cache_clear()
    check_backend("plain", "cpu")


def test_a_bias_that_encoder_decoders_add_to_their_logits_is_part_of_them():
    """BART and its kin: a buffer, zeros in most checkpoints."""
    from transformers import BartConfig, BartForConditionalGeneration

    torch.manual_seed(0)
    sizes = {f"{of}_{name}": 2 for of in ("encoder", "decoder") for name in ("layers", "attention_heads", "ffn_dim")}
    model = BartForConditionalGeneration(BartConfig(vocab_size=70, d_model=16, init_std=0.3, pad_token_id=0, **sizes)).eval()
    for bias in (torch.zeros(1, 70), torch.randn(1, 70)):
        model.final_logits_bias.copy_(bias)
        model.lm_head.__class__, model.lm_head.__dict__ = (
            torch.nn.Linear,
            {
                name: value
                for name, value in model.lm_head.__dict__.items()
                if name not in ("asked", "change", "proven", "answered")
            },
        )
        inputs = asked()
        inputs.feed.update(decoder_input_ids=torch.randint(0, 70, (3, 9)))
        counts = inputs.weight_BT > 0
        found, right = ask(model, inputs).logprob_BT[counts].double(), expected(model, inputs)[0][counts]
        torch.testing.assert_close(found, right, atol=1e-5, rtol=1e-5)
        assert model.final_logits_bias.equal(bias)


def test_what_fails_behind_the_output_layer_is_reported_in_words():
    """ESM adds a bias of its own there, which is wider than an answer."""
    from transformers import EsmConfig, EsmForMaskedLM

    model = EsmForMaskedLM(
        EsmConfig(vocab_size=70, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, pad_token_id=0)
    )
    with pytest.raises(ConfigError, match=r"changes what its output layer returns.*\(The size of tensor a"):
        ask(model, asked())
