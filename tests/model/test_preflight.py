"""Checkpoints of many kinds with something wrong in each: they are refused by name, without loading them."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from raylm.core.errors import ArtifactError, ConfigError
from raylm.model.preflight import Needs, check_folder, check_tokens, check_vocabulary, kind_of, variant_in
from tests.model.tiny import tiny_checkpoint, tiny_model, tiny_tokenizer

SMALL = {
    "vocab_size": 60, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 8, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def _save(at, kind, **fields):
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **{**SMALL, **fields})
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(at)
    return at


def _say(at, **fields):
    told = json.loads((at / "config.json").read_text())
    (at / "config.json").write_text(json.dumps({**told, **fields}))
    return at


def _tensors(at, change):
    tensors = load_file(at / "model.safetensors")
    save_file(change(tensors), at / "model.safetensors", metadata={"format": "pt"})
    return at


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("llama", {}), ("llama", {"attention_bias": True, "mlp_bias": True}), ("llama", {"tie_word_embeddings": True}),
        ("mistral", {}), ("qwen2", {}), ("qwen2", {"tie_word_embeddings": True}), ("qwen3", {}),
        ("qwen3", {"attention_bias": True}),
    ],
)  # fmt: skip
def test_tensors_of_the_plain_families_are_known_to_the_last_one(tmp_path, kind, fields):
    _save(tmp_path, kind, **fields)
    check_folder(tmp_path, Needs("causal", plain=True, engine=True, text=True))
    names = sorted(load_file(tmp_path / "model.safetensors"))
    lost = next(name for name in names if "layers.1" in name)
    _tensors(tmp_path, lambda tensors: {name: tensor for name, tensor in tensors.items() if name != lost})
    with pytest.raises(ArtifactError, match=f"1 of [0-9]+ tensors are missing: {lost}"):
        check_folder(tmp_path)
    _save(tmp_path, kind, **fields)
    _tensors(tmp_path, lambda tensors: tensors | {"model.layers.2.mlp.up_proj.weight": torch.ones(2, 2)})
    with pytest.raises(ArtifactError, match=r"1 tensors belong to no part of the model .* model.layers.2.mlp.up_proj.weight"):
        check_folder(tmp_path)


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (
            {"vocab_size": 64},
            "2 tensors have another shape than config.json means: lm_head.weight is 60 x 16, config.json means 64 x 16",
        ),
        ({"hidden_size": 18}, "21 tensors have another shape"),
        (
            {"num_key_value_heads": 2},
            "4 tensors have another shape than config.json means: model.layers.0.self_attn.k_proj.weight is 8 x 16",
        ),
        ({"num_hidden_layers": 1}, "9 tensors belong to no part"),
        ({"num_hidden_layers": 3}, "9 of 30 tensors are missing: model.layers.2.input_layernorm.weight"),
    ],
)
def test_weights_that_contradict_their_config_are_refused(tmp_path, told, said):
    with pytest.raises(ArtifactError, match=said):
        check_folder(_say(_save(tmp_path, "llama"), **told))


def test_what_may_be_left_over_or_absent_is_no_fault(tmp_path):
    _save(tmp_path, "llama")
    old = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    check_folder(_tensors(tmp_path, lambda tensors: tensors | old))
    # one of two that are tied is enough, whichever it is; and names of a base model have no prefix
    tied = _save(tmp_path / "tied", "llama", tie_word_embeddings=True)
    _tensors(tied, lambda t: {"lm_head.weight" if "embed" in name else name: tensor for name, tensor in t.items()})
    check_folder(tied)
    base = _save(tmp_path / "base", "llama", tie_word_embeddings=True)
    check_folder(_tensors(base, lambda t: {name.removeprefix("model."): tensor for name, tensor in t.items()}))
    _tensors(tied, lambda t: {name: tensor for name, tensor in t.items() if name != "lm_head.weight"})
    with pytest.raises(ArtifactError, match=r"2 of 21 tensors are missing: lm_head.weight, model.embed_tokens.weight"):
        check_folder(tied)


def test_a_generation_config_that_could_not_be_kept_is_found_early(tmp_path):
    _save(tmp_path, "llama")
    (tmp_path / "generation_config.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"generation_config.json is no JSON"):
        check_folder(tmp_path)


def test_an_expert_that_others_of_its_layer_have_is_missed(tmp_path):
    at = _save(tmp_path, "mixtral", num_local_experts=3)
    check_folder(at)
    lost = "model.layers.1.block_sparse_moe.experts.1.w1.weight"
    _tensors(at, lambda tensors: {name: tensor for name, tensor in tensors.items() if name != lost})
    with pytest.raises(ArtifactError, match=f"1 of [0-9]+ tensors are missing: {lost}"):
        check_folder(at)


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}, "causal"),
        ({"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}, "causal"),
        ({"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3"}, "causal"),
        ({"architectures": ["BertLMHeadModel"], "model_type": "bert", "is_decoder": True}, "causal"),
        ({"model_type": "llama"}, "causal"),
        ({"architectures": ["BertForMaskedLM"], "model_type": "bert"}, "masked"),
        ({"architectures": ["BertForPreTraining"], "model_type": "bert"}, "masked"),
        ({"architectures": ["T5ForConditionalGeneration"], "model_type": "t5", "is_encoder_decoder": True}, "seq2seq"),
        ({"architectures": ["BertModel"], "model_type": "bert"}, None),
        ({"architectures": ["XLMRobertaModel"], "model_type": "xlm-roberta"}, None),
        ({"architectures": ["ElectraForPreTraining"], "model_type": "electra"}, None),
        ({"architectures": ["DebertaV2ForTokenClassification"], "model_type": "deberta-v2"}, None),
        ({"architectures": ["LlamaForSequenceClassification"], "model_type": "llama"}, "classifier"),
        ({"architectures": ["Qwen2ForRewardModel"], "model_type": "qwen2"}, None),
        ({"architectures": ["ViTForImageClassification"], "model_type": "vit"}, None),
    ],
)
def test_kinds_of_models_are_recognized_by_config_json(config, kind):
    assert kind_of(config) == kind


def test_another_kind_than_a_stage_takes_is_refused(tmp_path):
    _save(tmp_path, "llama")
    with pytest.raises(ConfigError, match=r"predicts the next token \(LlamaForCausalLM\); asked for is an encoder-decoder"):
        check_folder(tmp_path, Needs("seq2seq"))
    with pytest.raises(ConfigError, match=r"encoder or a classifier.*\(LlamaForSequenceClassification\)"):
        check_folder(_say(tmp_path, architectures=["LlamaForSequenceClassification"]))
    with pytest.raises(ConfigError, match=r"parts beside its language model .text_config"):
        check_folder(_say(tmp_path, architectures=["XForConditionalGeneration"], text_config={}), Needs("causal", text=True))


@pytest.mark.parametrize(
    ("said", "how"),
    [
        ({"quantization_config": {"quant_method": "compressed-tensors"}}, "compressed-tensors"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "gptq"),
        ({"quantization_config": {"quant_method": "mxfp4"}}, "mxfp4"),
        ({"quantization_config": {"load_in_4bit": True}}, "bitsandbytes"),
        ({"text_config": {"quantization_config": {"quant_method": "fp8"}}}, "fp8"),
    ],
)
def test_quantized_weights_are_read_but_never_trained(tmp_path, said, how):
    _say(_save(tmp_path, "llama"), **said)
    check_folder(tmp_path)
    with pytest.raises(ConfigError, match=f"these weights are quantized .{how}."):
        check_folder(tmp_path, Needs("causal", plain=True))


def test_a_head_of_its_own_under_a_tied_config_is_kept_from_engines(tmp_path):
    model = tiny_model(vocab=70, hidden=32, layers=1)
    model.save_pretrained(tmp_path)
    _tensors(tmp_path, lambda tensors: tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()})
    check_folder(tmp_path, Needs(engine=True))
    _tensors(tmp_path, lambda tensors: tensors | {"lm_head.weight": tensors["lm_head.weight"] * 2})
    check_folder(tmp_path)
    with pytest.raises(ArtifactError, match=r"lm_head.weight is a matrix of its own") as caught:
        check_folder(tmp_path, Needs(engine=True))
    assert '"tie_word_embeddings": false' in str(caught.value.next)


def test_files_of_which_transformers_and_vllm_would_read_others_are_refused(tmp_path):
    tiny_model(vocab=70, hidden=32, layers=2).save_pretrained(tmp_path)
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "old.safetensors").write_bytes(whole)
    check_folder(tmp_path)
    with pytest.raises(ArtifactError, match=r"vLLM reads every safetensors file, .*: old.safetensors"):
        check_folder(tmp_path, Needs(engine=True))
    (tmp_path / "old.safetensors").unlink()
    tiny_model(vocab=70, hidden=32, layers=2, seed=1).save_pretrained(tmp_path, max_shard_size="30KB")
    (tmp_path / "model.safetensors").write_bytes(whole)
    with pytest.raises(ArtifactError, match="there are two sets of weights"):
        check_folder(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    check_folder(tmp_path, Needs(engine=True))


def test_a_tokenizer_that_means_other_texts_by_the_same_ids_is_refused(tmp_path):
    model = tiny_checkpoint(tmp_path / "model", vocab=300, hidden=32, layers=1)
    tiny_tokenizer(290).save_pretrained(tmp_path / "less")
    check_tokens(tmp_path / "less", model, "rows")
    check_tokens(tmp_path / "nowhere", model, "rows")
    told = json.loads((model / "tokenizer.json").read_text())
    vocab = told["model"]["vocab"]
    # a reserved token under another name
    one = max(vocab, key=vocab.get)
    renamed = {("<|think|>" if text == one else text): number for text, number in vocab.items()}
    for name, found in (("renamed", renamed), ("other", dict(zip(vocab, reversed(vocab.values()), strict=True)))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tokenizer.json").write_text(json.dumps({**told, "model": {**told["model"], "vocab": found}}))
    check_tokens(tmp_path / "renamed", model, "rows")
    with pytest.raises(ConfigError, match=r"the tokenizer of 'rows' is not the model's: [0-9]+ of [0-9]+ ids mean other texts"):
        check_tokens(tmp_path / "other", model, "rows")
    unigram = {"model": {"vocab": [["a", 0.0], ["b", -1.0]]}}
    for name, found in (("one", unigram), ("two", {"model": {"vocab": [["b", 0.0], ["a", -1.0]]}})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tokenizer.json").write_text(json.dumps(found))
    with pytest.raises(ConfigError, match="2 of 2 ids"):
        check_tokens(tmp_path / "one", tmp_path / "two", "rows")


def test_more_tokens_than_the_embedding_has_rows_are_refused():
    check_vocabulary({"text_config": {"vocab_size": 70}}, 70, "rows", "here")
    with pytest.raises(ConfigError, match="'rows' has 71 tokens, the model's embedding 70"):
        check_vocabulary({"text_config": {"vocab_size": 70}}, 71, "rows", "here")


def test_a_folder_that_others_made_says_what_it_is(tmp_path):
    """A reward model, a classifier of two labels, quantized weights, an encoder-decoder, files of llama.cpp."""
    classifier = {"architectures": ["LlamaForSequenceClassification"], "model_type": "llama"}
    quantized = {"model_type": "llama", "quantization_config": {"quant_method": "gptq"}}
    for config, variant in (
        ({**classifier, "id2label": {"0": "LABEL_0"}}, "reward"),
        ({**classifier, "id2label": {"0": "bad", "1": "good"}}, "classifier"),
        (quantized, "quantized"),
        ({"model_type": "t5", "is_encoder_decoder": True}, "seq2seq"),
        ({"model_type": "qwen3"}, "causal"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert variant_in(tmp_path) == variant, config
    (tmp_path / "config.json").unlink()
    assert variant_in(tmp_path) == ""
    (tmp_path / "model-q4.gguf").write_bytes(b"GGUF")
    assert variant_in(tmp_path) == "export:gguf"
