"""What is used of vLLM's adapters is there in the version that it was written against."""

from __future__ import annotations

import inspect

import pytest

from raylm.inference.vllm_private import VLLM


@pytest.mark.vllm
def test_the_version():
    import vllm
    from vllm.entrypoints.openai.models.serving import OpenAIServingModels
    from vllm.lora.request import LoRARequest
    from vllm.v1.core.kv_cache_utils import _gen_lora_extra_hash_keys

    assert vllm.__version__.startswith(VLLM), "read vllm_adapters_private.py again beside the new source"
    assert {"lora_name", "lora_int_id", "lora_path"} <= set(LoRARequest.__struct_fields__)
    assert "self.lora_requests" in inspect.getsource(OpenAIServingModels.__init__)
    # other weights under the same name need another path alone
    assert "lora_path" in inspect.getsource(_gen_lora_extra_hash_keys)
