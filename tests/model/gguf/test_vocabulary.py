"""Tokenizers for GGUF: recognised by what they do, refused by name where llama.cpp does otherwise."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jinja2 import Environment
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from raylm.core.errors import ConfigError
from raylm.model.gguf.pre_tokenizers import pre_tokenizer
from raylm.model.gguf.vocabulary import plain_template, vocabulary
from raylm.tokenize.trainers.layout import CHAT_TEMPLATE
from raylm.tokenize.trainers.pattern import Pattern
from raylm.tokenize.trainers.spelling import byte_level
from tests.model.tiny import tiny_tokenizer


def spec_of(pattern: Pattern, **model: Any) -> dict[str, Any]:
    return json.loads(byte_level(models.BPE(**model), pattern).to_str())


@pytest.mark.parametrize(
    ("pattern", "model", "name"),
    [
        (Pattern("gpt2", 0), {}, "gpt-2"),
        (Pattern("gpt4", 3), {}, "dbrx"),
        (Pattern("gpt4", 3), {"ignore_merges": True}, "llama-bpe"),
        (Pattern("gpt4", 1), {}, "qwen2"),
    ],
)
def test_our_own_patterns_are_known(pattern, model, name):
    assert pre_tokenizer(spec_of(pattern, **model), "here") == name


@pytest.mark.parametrize("pattern", [Pattern("gpt2", 3), Pattern("gpt4", 0)])
def test_a_pattern_that_llama_cpp_has_not_is_refused_with_its_expression(pattern):
    with pytest.raises(ConfigError, match=r"(?s)no pre-tokenizer that splits text .*: Split.*known are those of dbrx"):
        pre_tokenizer(spec_of(pattern), "here")


def test_digits_before_bytes_are_those_of_smollm():
    core = byte_level(models.BPE(), Pattern("gpt2", 0))
    core.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), core.pre_tokenizer])
    assert pre_tokenizer(json.loads(core.to_str()), "here") == "smollm"


def test_tokens_types_and_ends():
    tokenizer = tiny_tokenizer()
    fields = vocabulary(tokenizer, 516, [2], "here")
    assert fields["tokenizer.ggml.tokens"][-1] == "[PAD515]" and fields["tokenizer.ggml.token_type"][-1] == 5
    assert len(fields["tokenizer.ggml.tokens"]) == 516 and fields["tokenizer.ggml.eos_token_id"] == 2
    # the end of a turn is another token than the end of texts
    fields = vocabulary(tokenizer, 512, [0, 2], "here")
    assert (fields["tokenizer.ggml.eos_token_id"], fields["tokenizer.ggml.eot_token_id"]) == (2, 0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda core: setattr(core, "normalizer", normalizers.Lowercase()), "normalizer Lowercase"),
        (
            lambda core: setattr(core, "post_processor", processors.TemplateProcessing("$A <|end|>", None, [("<|end|>", 2)])),
            "post-processor",
        ),
    ],
)
def test_what_has_no_counterpart_is_named(change, words):
    tokenizer = tiny_tokenizer()
    change(tokenizer.backend_tokenizer)
    with pytest.raises(ConfigError, match=words):
        vocabulary(tokenizer, 512, [2], "here")


def test_begin_of_text_comes_from_the_post_processor():
    tokenizer = tiny_tokenizer()
    begin = processors.TemplateProcessing("<|bos|> $A", None, [("<|bos|>", 1)])
    tokenizer.backend_tokenizer.post_processor = begin
    assert vocabulary(tokenizer, 512, [2], "here")["tokenizer.ggml.add_bos_token"] is True
    tokenizer.chat_template = tokenizer.chat_template.replace("{{ bos_token }}", "")
    with pytest.raises(ConfigError, match=r"does not begin with '<.bos.>'"):
        vocabulary(tokenizer, 512, [2], "here")


def test_pieces_of_sentencepiece_have_scores_by_the_order_of_their_merges():
    from transformers import PreTrainedTokenizerFast

    tokens = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "\u2581",
        "a",
        "b",
        "ab",
        "\u2581ab",
        "\u2581a",
    ]
    vocab = {token: number for number, token in enumerate(tokens)}
    merges = [("a", "b"), ("\u2581", "ab"), ("\u2581a", "b"), ("\u2581", "a")]
    core = Tokenizer(models.BPE(vocab=vocab, merges=merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    core.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    fields = vocabulary(tokenizer, len(vocab), [2], "here")
    assert fields["tokenizer.ggml.model"] == "llama" and fields["tokenizer.ggml.add_space_prefix"] is True
    scores = dict(zip(fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.scores"], strict=True))
    assert scores["ab"] > scores["\u2581ab"] > scores["\u2581a"]
    assert fields["tokenizer.ggml.token_type"][:4] == [2, 3, 3, 6]
    # without the second way to the same piece no scores stand for these merges
    core.model = models.BPE(vocab=vocab, merges=[merges[0], merges[1], merges[3]], byte_fallback=True, unk_token="<unk>")
    broken = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    with pytest.raises(ConfigError, match="merges that no scores of sentencepiece stand for"):
        vocabulary(broken, len(vocab), [2], "here")


def test_a_template_without_generation_renders_the_same():
    from transformers.utils.chat_template_utils import render_jinja_template

    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    spaced = "{% for m in messages %}\n  {%- generation -%}\n {{ m.content }}\n  {% endgeneration %}\n-{% endfor %}"
    for template in (CHAT_TEMPLATE, spaced):
        plain = plain_template(template)
        assert "generation %}" not in plain and "generation -%}" not in plain
        whole, _ = render_jinja_template([talk], chat_template=template, bos_token="<s>", tools=None)
        environment = Environment(trim_blocks=True, lstrip_blocks=True)
        assert environment.from_string(plain).render(messages=talk, bos_token="<s>", tools=None) == whole[0]
