"""Rows for new tokens: how they begin, what stays, what is trained beside an adapter."""

from __future__ import annotations

import pytest
import torch
import transformers

from raylm.core.errors import ConfigError
from raylm.model.adapters.lora import Lora
from raylm.model.new_tokens import NewTokens
from tests.model.tiny import tiny_model, tiny_tokenizer

TOKENS = torch.tensor([[1, 7, 20, 33, 60]])


def model(tied: bool = True, dtype: torch.dtype = torch.float32):
    made = tiny_model(vocab=300, hidden=32, layers=1)
    if not tied:
        made.config.tie_word_embeddings = False
        made.lm_head.weight = torch.nn.Parameter(made.lm_head.weight.detach() * 2 + 0.01)
    return made.to(dtype)


@pytest.fixture(scope="module")
def tokenizer():
    made = tiny_tokenizer(300)
    made.add_special_tokens({"additional_special_tokens": ["<|tool|>", "<|call|>"]}, replace_extra_special_tokens=False)
    return made


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_new_rows_are_the_mean_of_the_old_and_nothing_else_changes(tokenizer, tied, dtype):
    before = model(tied, dtype)
    logits = before(TOKENS).logits
    rows, head = before.get_input_embeddings().weight.detach().clone(), before.lm_head.weight.detach().clone()
    after = NewTokens().resize(before, 302, tokenizer)
    assert after.config.vocab_size == 302 and after.new_token_ids == [300, 301]
    assert (after.lm_head.weight is after.get_input_embeddings().weight) == tied
    for new, old in ((after.get_input_embeddings().weight, rows), (after.lm_head.weight, head)):
        assert new[:300].equal(old) and new.dtype == dtype
        torch.testing.assert_close(new[300:], old.float().mean(0).repeat(2, 1).to(dtype), atol=0, rtol=0)
    torch.testing.assert_close(after(TOKENS).logits[..., :300], logits, atol=1e-2 if dtype == torch.bfloat16 else 1e-6, rtol=0)


def test_described_tokens_begin_as_their_words(tokenizer):
    made = model(tied=False)
    rows = made.get_input_embeddings().weight.detach().clone()
    ids = tokenizer("tool", add_special_tokens=False)["input_ids"]
    after = NewTokens(described={"<|call|>": "tool"}, pad_to_multiple_of=8).resize(made, 302, tokenizer)
    assert after.config.vocab_size == 304 and after.new_token_ids == [300, 301]
    torch.testing.assert_close(after.get_input_embeddings().weight[301], rows[ids].mean(0))
    torch.testing.assert_close(after.get_input_embeddings().weight[300], rows.mean(0))
    for described, said in (({"the": "x"}, "is no new token"), ({"<|call|>": "<|tool|>"}, "no token that the model knows")):
        with pytest.raises(ConfigError, match=said):
            NewTokens(described=described).resize(model(), 302, tokenizer)


def test_a_padded_vocabulary_needs_nothing(tokenizer):
    made = model()
    assert NewTokens().resize(made, 290, tokenizer) is made and not hasattr(made, "new_token_ids")


@pytest.mark.parametrize("rows", [304, 301])
def test_rows_that_the_model_has_but_never_trained_are_those_of_new_tokens(tokenizer, rows):
    """A vocabulary that was rounded up: its own tokenizer tells which rows it knows."""
    before = tiny_model(vocab=rows, hidden=32, layers=1)
    table = before.get_input_embeddings().weight.detach().clone()
    ids = tokenizer("tool", add_special_tokens=False)["input_ids"]
    after = NewTokens(described={"<|call|>": "tool"}).resize(before, 302, tokenizer, known=300)
    found = after.get_input_embeddings().weight
    assert len(found) == max(rows, 302) and after.new_token_ids == [300, 301]
    torch.testing.assert_close(found[300:302], torch.stack([table[:300].mean(0), table[ids].mean(0)]))
    assert found[:300].equal(table[:300]) and found[302:].equal(table[302:])
    assert any("trainable_tokens_delta" in name for name, _ in Lora(modules=["q_proj"]).attach(after, 0).named_parameters())
    with pytest.raises(ConfigError, match="is no new token"):
        NewTokens(described={"<|call|>": "tool"}).resize(tiny_model(vocab=304, hidden=32, layers=1), 302, tokenizer, known=302)


def test_a_bias_of_the_output_layer_grows_too(tokenizer):
    small = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    made = transformers.BertForMaskedLM(transformers.BertConfig(vocab_size=300, hidden_size=32, **small)).eval()
    made.cls.predictions.bias.data.normal_()
    mean = made.cls.predictions.bias.mean()
    NewTokens().resize(made, 302, tokenizer)
    assert made(TOKENS).logits.shape[-1] == 302
    torch.testing.assert_close(made.get_output_embeddings().bias[300:], mean.repeat(2))
    with pytest.raises(ConfigError, match=r"rows of .*without its bias"):
        Lora(modules=["query"]).attach(made, 0)


@pytest.mark.parametrize("tied", [True, False])
def test_beside_an_adapter_the_new_rows_are_trained_and_merged(tokenizer, tied):
    made = Lora(modules=["q_proj"]).attach(NewTokens().resize(model(tied, torch.bfloat16), 302, tokenizer), 0)
    rows = {name: p for name, p in made.named_parameters() if "trainable_tokens_delta" in name}
    assert len(rows) == (1 if tied else 2) and all(p.requires_grad and p.dtype == torch.float32 for p in rows.values())
    for p in rows.values():
        p.data.add_(1.0)
    merged = dict(made_weights := Lora(modules=["q_proj"]).merge(made, made.state_dict().items()))
    assert next(made_weights, None) is None
    plain = NewTokens().resize(model(tied, torch.bfloat16), 302, tokenizer)
    old = plain.get_input_embeddings().weight
    assert merged["model.embed_tokens.weight"][:300].equal(old[:300])
    torch.testing.assert_close(merged["model.embed_tokens.weight"][300:].float(), old[300:].float() + 1, atol=1e-2, rtol=0)
    assert merged["lm_head.weight"].equal(merged["model.embed_tokens.weight"]) == tied
    plain.load_state_dict(merged)
    torch.testing.assert_close(plain(TOKENS).logits, made(TOKENS).logits, atol=5e-2, rtol=0)


def test_rows_of_several_tied_tables_are_refused(tokenizer):
    config = transformers.T5Config(vocab_size=300, d_model=32, d_kv=16, d_ff=64, num_layers=1, num_heads=2)
    made = NewTokens().resize(transformers.T5ForConditionalGeneration(config), 302, tokenizer)
    try:
        found = Lora(modules=["q"]).attach(made, 0)
    except ConfigError as error:
        assert "trained in one of several tied weights alone" in str(error)
    else:
        names = [n for n, _ in found.named_parameters(remove_duplicate=False) if "trainable_tokens_delta" in n]
        tables = [n for n, m in found.named_modules() if isinstance(m, torch.nn.Embedding) and "relative" not in n]
        assert len(names) >= len(tables)
