import os
import re
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

import pytest

from raylm.core.config import references
from raylm.inference.config import CPU_KV_CACHE_DTYPES, BatchGenerators, EngineOptions, EngineSettings
from raylm.inference.engine import set_cpu_options

NGRAM = {"kind": "ngram", "num_tokens": 5, "min_lookup": 2, "max_lookup": 3}


def test_settings_as_arguments_of_vllm():
    assert EngineSettings().options == BatchGenerators().options == {}
    asked = EngineSettings(
        enable_prefix_caching=False,
        max_num_seqs=8,
        enable_chunked_prefill=True,
        max_num_batched_tokens=512,
        kv_cache_gb=0.5,
        compile=False,
        kv_cache_dtype="fp8",
        speculation=NGRAM,  # type: ignore[arg-type]
    )
    plain = {
        "enable_prefix_caching": False,
        "max_num_seqs": 8,
        "enable_chunked_prefill": True,
        "max_num_batched_tokens": 512,
        "kv_cache_memory_bytes": 2**29,
        "enforce_eager": True,
        "kv_cache_dtype": "fp8",
    }
    assert asked.options == plain | {"speculation": asked.speculation}
    assert asked.speculation is not None and asked.speculation.speculative_config("/nowhere") == {
        "method": "ngram",
        "num_speculative_tokens": 5,
        "prompt_lookup_min": 2,
        "prompt_lookup_max": 3,
    }
    assert BatchGenerators(**asked.model_dump(), count=3, gpus=1).options == asked.options


def test_what_cpus_cannot_do_is_refused():
    for table, why in (
        ({"enable_chunked_prefill": True}, "enable_chunked_prefill = true needs a GPU"),
        ({"kv_cache_dtype": "int8_per_token_head"}, "kv_cache_dtype = 'int8_per_token_head' needs a GPU.*fp8_e4m3"),
        ({"tensor_parallel": 2}, "tensor_parallel = 2 needs gpus = 2, not 0"),
    ):
        settings = EngineSettings(**table)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=why):
            settings.check_gpus(0)
        settings.check_gpus(settings.tensor_parallel)
        with pytest.raises(ValueError, match=why):
            BatchGenerators(**table)  # type: ignore[arg-type]
    EngineSettings(kv_cache_dtype="fp8").check_gpus(0)
    with pytest.raises(ValueError, match="lends memory to a trainer"):
        BatchGenerators(sleeps=True)


def test_formats_of_the_cache_are_those_of_vllm():
    # read in vLLM's own files: importing it takes longer than all these tests
    def strings(path: str, after: str) -> set[str]:
        text = Path(*find_spec("vllm").submodule_search_locations, path).read_text()  # type: ignore[union-attr]
        return set(re.findall(r'"(\w+)"', text.partition(after)[2].partition("\n    ]" if after[0] == " " else "\n]")[0]))

    asked = set(get_args(EngineOptions.model_fields["kv_cache_dtype"].annotation))
    assert asked <= strings("config/cache.py", "CacheDType = Literal[")
    on_cpus = strings("v1/attention/backends/cpu_attn.py", '    supported_kv_cache_dtypes: ClassVar[list["CacheDType"]] = [')
    assert set(CPU_KV_CACHE_DTYPES) == on_cpus
    on_gpus = [
        strings(f"v1/attention/backends/{name}.py", "    supported_kv_cache_dtypes") for name in ("triton_attn", "flashinfer")
    ]
    assert asked <= set.union(*on_gpus)


def test_a_draft_model_is_a_reference():
    settings = EngineSettings(speculation={"kind": "draft_model", "model": "distill"})  # type: ignore[arg-type]
    (found,) = references(settings)
    assert (found.path, found.value, found.kinds, found.variants) == (
        ("speculation", "model"), "distill", ("Checkpoint",), ("causal",)
    )  # fmt: skip
    held = settings.at({"distill": "/runs/x/distill"}.__getitem__).speculation
    assert held is not None and held.model == "/runs/x/distill"  # type: ignore[union-attr]
    assert EngineSettings().at(str) == EngineSettings()
    ngram = EngineSettings(speculation=NGRAM)  # type: ignore[arg-type]
    assert ngram.at(str) == ngram


def test_a_table_goes_before_the_environment(monkeypatch):
    def left(**options):
        monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")
        set_cpu_options(options)
        return [os.environ.get(name) for name in ("VLLM_CPU_KVCACHE_SPACE", "TORCHDYNAMO_DISABLE")]

    assert left(enforce_eager=True) == ["1", "1"]
    assert left(enforce_eager=True, kv_cache_memory_bytes=2**28) == [None, "1"]
    assert left(enforce_eager=False) == ["1", None]
