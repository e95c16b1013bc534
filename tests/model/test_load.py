"""Loading models: what is loaded, and what is refused with which words."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from raylm.core.artifact import Checkpoint
from raylm.core.errors import ArtifactError, ConfigError
from raylm.core.storage import Folder
from raylm.model.load import (
    auto_class,
    beside,
    check_start,
    check_tokenizer,
    checkpoint_path,
    folder_of,
    freeze_unread,
    is_composite,
    kind_of_model,
    load_as,
    load_model,
    load_tokenizer,
    text_config,
)
from raylm.model.preflight import Needs
from tests.model.tiny import tiny_checkpoint, tiny_composite, tiny_model
from tests.stages import context


def test_a_model_is_loaded_as_stored_or_as_requested(tmp_path):
    tiny_model(vocab=70, hidden=32, layers=1).to(torch.bfloat16).save_pretrained(tmp_path)
    assert next(load_model(str(tmp_path)).parameters()).dtype == torch.bfloat16
    assert next(load_model(str(tmp_path), "float32").parameters()).dtype == torch.float32


def test_what_is_no_model_is_reported_with_its_place(tmp_path):
    with pytest.raises(ArtifactError, match="no model could be loaded") as caught:
        load_model(str(tmp_path))
    assert caught.value.where == str(tmp_path)
    with pytest.raises(ArtifactError, match="no tokenizer could be loaded"):
        load_tokenizer(str(tmp_path / "nowhere"))


def test_pickled_weights_are_refused(tmp_path):
    model = tiny_model(vocab=70, hidden=32, layers=1)
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ArtifactError):
        load_model(str(tmp_path))


def test_a_reference_is_a_stage_a_folder_or_a_hub_name(tmp_path):
    made = context(tmp_path, "base")
    tiny_checkpoint(made.out.uri, vocab=300, hidden=32, layers=1)
    made.commit(Checkpoint, facts={})
    plain = tiny_checkpoint(tmp_path.parent / f"{tmp_path.name}-plain", vocab=300, hidden=32, layers=1)
    ctx = context(tmp_path, "next")
    assert checkpoint_path(ctx, "base") == str(tmp_path / "base")
    assert checkpoint_path(ctx, str(tmp_path / "base")) == str(tmp_path / "base")
    assert checkpoint_path(ctx, str(plain)) == str(plain)
    assert checkpoint_path(ctx, "someone/model-1b") == "someone/model-1b"


def test_rows_of_another_tokenizer_are_refused():
    model = tiny_model(vocab=70, hidden=32, layers=1)
    check_tokenizer(model, {"vocab_size": 70, "eos_token_id": 2}, "rows")
    with pytest.raises(ConfigError, match="'rows' has 71 tokens, the model's embedding 70"):
        check_tokenizer(model, {"vocab_size": 71, "eos_token_id": 2}, "rows")
    with pytest.raises(ConfigError, match=r"ends texts with token 5, the model with \[2\]"):
        check_tokenizer(model, {"vocab_size": 70, "eos_token_id": 5}, "rows")
    model.config.eos_token_id = [2, 5]
    check_tokenizer(model, {"vocab_size": 70, "eos_token_id": 5}, "rows")


ENCODER = {"vocab_size": 60, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
DECODER = {**ENCODER, "num_hidden_layers": 2, "num_key_value_heads": 1, "head_dim": 8}


def _drop(at, *parts):
    tensors = load_file(at / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if not any(part in name for part in parts)}
    save_file(kept, at / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("kind", "lost", "said"),
    [
        ("gpt2", "h.0.mlp", r"4 of [0-9]+ tensors are missing: transformer.h.0.mlp.c_fc.bias"),
        ("gemma2", "layers.1.mlp.up_proj", r"1 of [0-9]+ tensors are missing: model.layers.1.mlp.up_proj.weight"),
        ("qwen3_moe", "experts.3.", r"another shape .*experts.down_proj is 3 x 16 x 8, config.json means 4 x 16 x 8"),
        ("qwen3_moe", "experts", r"4 of [0-9]+ tensors are missing: model.layers.0.mlp.experts.down_proj"),
    ],
)
def test_no_tensor_is_made_of_random_numbers(tmp_path, kind, lost, said):
    more = {"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 60} if kind == "gpt2" else DECODER
    if kind == "qwen3_moe":
        more = {**more, "moe_intermediate_size": 8, "num_experts": 4, "num_experts_per_tok": 2}
    config = transformers.AutoConfig.for_model(kind, **more)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    load_model(str(tmp_path))
    _drop(tmp_path, lost)
    with pytest.raises(ArtifactError, match=said):
        load_model(str(tmp_path))


def test_a_tensor_that_no_part_of_the_model_takes_is_refused(tmp_path):
    transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=60, n_embd=16, n_layer=1, n_head=2)).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    # buffers that earlier versions stored are no part of it
    old = {"transformer.h.0.attn.bias": torch.ones(1), "transformer.h.0.attn.masked_bias": torch.ones(1)}
    save_file(tensors | old, tmp_path / "model.safetensors", metadata={"format": "pt"})
    load_model(str(tmp_path))
    save_file(
        tensors | {"transformer.h.1.ln_1.weight": torch.ones(16)}, tmp_path / "model.safetensors", metadata={"format": "pt"}
    )
    with pytest.raises(ArtifactError, match=r"1 tensors belong to no part .* transformer.h.1.ln_1.weight"):
        load_model(str(tmp_path))


@pytest.mark.parametrize("told", [{"num_attention_heads": 3}, {"model_type": "unheard_of"}, {"num_hidden_layers": "two"}])
def test_a_config_that_contradicts_itself_is_refused_in_words(tmp_path, told):
    config = transformers.AutoConfig.for_model("olmo2", **{key: value for key, value in DECODER.items() if key != "head_dim"})
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **told}))
    with pytest.raises(ArtifactError) as caught:
        load_model(str(tmp_path))
    assert caught.value.where == str(tmp_path) and "above report" not in caught.value.what and caught.value.next


def test_a_config_that_transformers_does_not_know_is_refused_at_the_driver(tmp_path):
    tiny_model(vocab=70, hidden=32, layers=1).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "model_type": "unheard_of"}))
    with pytest.raises(ArtifactError, match="does not recognize this architecture"):
        check_start(str(tmp_path), Needs("causal", plain=True))


def test_a_config_that_names_two_networks_is_refused(tmp_path):
    tiny_model(vocab=70, hidden=32, layers=1).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "architectures": ["GemmaForCausalLM"]}))
    with pytest.raises(ArtifactError, match="names GemmaForCausalLM, but model_type llama"):
        load_model(str(tmp_path))


def test_classifiers_and_bare_encoders_are_no_language_models(tmp_path):
    config = transformers.BertConfig(**ENCODER)
    for name, made in (("labels", transformers.BertForSequenceClassification), ("bare", transformers.BertModel)):
        made(config).save_pretrained(tmp_path / name)
        with pytest.raises(ConfigError, match="an encoder or a classifier"):
            load_model(str(tmp_path / name))
    # pooler and next-sentence head are no part of a masked language model
    transformers.BertForPreTraining(config).save_pretrained(tmp_path / "whole")
    assert type(load_model(str(tmp_path / "whole"))).__name__ == "BertForMaskedLM"
    # a classifier without its head would give random scores
    with pytest.raises(ArtifactError, match=r"2 of .* missing: classifier.bias, classifier.weight"):
        load_as(transformers.AutoModelForSequenceClassification, str(tmp_path / "bare"))
    assert load_as(transformers.AutoModelForSequenceClassification, str(tmp_path / "labels"))


def test_quantized_weights_are_not_loaded_to_be_trained(tmp_path):
    tiny_model(vocab=70, hidden=32, layers=1).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "quantization_config": {"quant_method": "gptq", "bits": 4}}))
    with pytest.raises(ConfigError, match=r"these weights are quantized .gptq."):
        load_model(str(tmp_path), plain=True)


def test_the_text_part_of_a_composite_model_is_what_trains(tmp_path):
    for kind in ("gemma3", "llava"):
        made = tiny_composite(kind)
        made.save_pretrained(tmp_path / kind)
        model = load_model(str(tmp_path / kind), "float32")
        assert type(model) is type(made) and is_composite(model.config) and kind_of_model(model.config) == "causal"
        assert text_config(model.config).vocab_size == 300
        freeze_unread(model)
        tokens = torch.tensor([[5, 9, 30, 31]])
        model(input_ids=tokens, labels=tokens).loss.backward()
        assert all((p.grad is not None) == p.requires_grad for p in model.parameters())
        assert {p.requires_grad for name, p in model.named_parameters() if "vision" in name or "projector" in name} == {False}
        assert {p.requires_grad for name, p in model.named_parameters() if "language_model" in name} == {True}
        check_tokenizer(model, {"vocab_size": 300, "eos_token_id": 2}, "rows")
    whole = transformers.LlamaConfig(**DECODER)
    assert not is_composite(whole) and text_config(whole) is whole
    vision = transformers.ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    with pytest.raises(ArtifactError, match="'vit' is no language model"):
        auto_class(vision)


def test_files_beside_weights_are_found_where_they_are(tmp_path):
    tiny_model(vocab=70, hidden=32, layers=1).save_pretrained(tmp_path)
    assert folder_of(str(tmp_path)) == tmp_path
    assert beside(str(tmp_path), "generation_config.json") == tmp_path / "generation_config.json"
    assert beside(str(tmp_path), "processor_config.json") is None


def test_a_start_is_looked_at_before_ranks_start(tmp_path):
    start = tiny_checkpoint(tmp_path / "start", vocab=300, hidden=32, layers=1)
    tiny_checkpoint(tmp_path / "rows" / "tokenizer", vocab=300, hidden=32, layers=1)
    rows = Folder(tmp_path / "rows")
    check_start(str(start), Needs("causal", plain=True), rows, 300)
    check_start("someone/model-1b", Needs("causal", plain=True), rows, 300)
    with pytest.raises(ConfigError, match="has 301 tokens, the model's embedding 300"):
        check_start(str(start), Needs("causal"), rows, 301)
    with pytest.raises(ConfigError, match="asked for is an encoder that predicts masked tokens"):
        check_start(str(start), Needs("masked"), rows, 300)
