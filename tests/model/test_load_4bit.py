"""Models with their matrices in 4 bits, from weights that are stored in full or by bitsandbytes, beside transformers' own."""

from __future__ import annotations

import pytest
import torch

from raylm.core.errors import ConfigError
from raylm.model.checkpoint import num_parameters
from raylm.model.linear_4bit import Quantization, layers_of
from raylm.model.load_4bit import load_4bit, quantizable
from tests.model.tiny import tiny_composite, tiny_model


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    at = tmp_path_factory.mktemp("plain")
    tiny_model(vocab=70, hidden=64, layers=2).save_pretrained(at)
    return str(at)


def theirs(at, quant_type="nf4", double=True):
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    how = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=quant_type, bnb_4bit_use_double_quant=double)
    return AutoModelForCausalLM.from_pretrained(at, dtype=torch.float32, quantization_config=how)


@pytest.mark.parametrize("how", [Quantization(), Quantization("fp4", False)])
def test_matrices_are_those_of_transformers_and_the_rest_stays(plain, how):
    from bitsandbytes.functional import dequantize_4bit

    model, other = load_4bit(plain, "float32", how), theirs(plain, *how)
    layers = layers_of(model)
    assert len(layers) == 14 and num_parameters(model) == num_parameters(tiny_model(vocab=70, hidden=64, layers=2))
    for name, layer in layers.items():
        weight = other.get_parameter(name)
        assert layer.matrix().equal(dequantize_4bit(weight.data, weight.quant_state)), name
    whole = tiny_model(vocab=70, hidden=64, layers=2).state_dict()
    kept = {name: p for name, p in model.named_parameters() if name not in layers}
    assert kept.keys() == {"model.embed_tokens.weight", *(name for name in whole if "norm" in name)}
    assert all(p.equal(whole[name]) for name, p in kept.items())
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert getattr(model.config, "quantization_config", None) is None


def test_what_bitsandbytes_stored_is_taken_as_it_is(plain, tmp_path):
    theirs(plain).save_pretrained(tmp_path)
    stored, rounded = load_4bit(str(tmp_path), "float32", Quantization()), load_4bit(plain, "float32", Quantization())
    assert stored.state_dict().keys() == rounded.state_dict().keys()
    assert all(tensor.equal(rounded.state_dict()[name]) for name, tensor in stored.state_dict().items())
    with pytest.raises(ConfigError, match=r"stored in nf4 with double quantization[\s\S]*double_quant = true"):
        load_4bit(str(tmp_path), "float32", Quantization("nf4", False))


def test_what_is_quantized_in_another_way_is_refused(plain, tmp_path):
    import json
    import shutil

    shutil.copytree(plain, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    for said in ({"quant_method": "gptq", "bits": 4}, {"quant_method": "bitsandbytes", "load_in_8bit": True}):
        (tmp_path / "config.json").write_text(json.dumps({**config, "quantization_config": said}))
        with pytest.raises(ConfigError, match=rf"quantized \({said['quant_method']}\), and not by bitsandbytes in 4 bits"):
            load_4bit(str(tmp_path), "float32", Quantization())


def test_towers_routers_and_the_output_layer_are_no_part_of_it():
    found = quantizable(tiny_composite("gemma3"))
    assert found and all(".language_model." in name for name in found)
    from transformers import GPT2Config, GPT2LMHeadModel, T5Config, T5ForConditionalGeneration

    t5 = T5ForConditionalGeneration(T5Config(d_model=32, d_ff=48, d_kv=8, num_heads=4, num_layers=1, vocab_size=70))
    # its class casts what it feeds `wo` to the dtype of the weight
    assert {name.rsplit(".", 1)[-1] for name in quantizable(t5)} == {"q", "k", "v", "o", "wi"}
    # all of its matrices are Conv1D
    with pytest.raises(ConfigError, match=r"no linear layer inside of blocks of GPT2LMHeadModel[\s\S]*lora"):
        quantizable(GPT2LMHeadModel(GPT2Config(vocab_size=70, n_embd=32, n_layer=1, n_head=2)))
