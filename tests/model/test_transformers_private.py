"""The private attributes of transformers, against the version that they were read in."""

from __future__ import annotations

import transformers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from raylm.model import transformers_private as internals
from tests.model.tiny import tiny_model

READ_IN = "5.19"


def test_transformers_is_the_version_whose_private_parts_were_read():
    assert transformers.__version__.startswith(f"{READ_IN}."), (
        f"transformers {transformers.__version__}: read raylm/model/transformers_private.py against it, then change READ_IN"
    )


def test_what_they_answer():
    model = tiny_model(vocab=70, hidden=32, layers=1)
    model.set_attn_implementation("sdpa")
    assert internals.attention_of(model) == "sdpa"
    assert internals.has_attention_backends(model)
    assert internals.model_classes(AutoModelForCausalLM)[LlamaConfig] is LlamaForCausalLM
    assert internals.ignored_on_save(model) == set()
    assert internals.unsplit_classes(model) == {"LlamaDecoderLayer"}
    assert internals.recorded_routers(model) is None
