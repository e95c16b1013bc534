"""xllamacpp: llama.cpp's own server as a Python package, asked over its HTTP interface."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, ClassVar, Literal

from raylm.compress.consumers.consumer import Consumer, Logprobs, Prompt, Ran, package_version, threads_for
from raylm.core.errors import ArtifactError

NUM_LOGPROBS = 256
"""Likeliest tokens that are asked for at each position."""
ONE_S = 300.0


class Xllamacpp(Consumer):
    """The server of llama.cpp (https://github.com/xorbitsai/xllamacpp): its tokenizer, its Jinja, its CPU kernels.

    The cache of keys and values is held in float32: the file is what is proved, not the server's default cache in float16.
    """

    reads: ClassVar[tuple[str, ...]] = ("gguf",)

    kind: Literal["xllamacpp"] = "xllamacpp"

    def installed(self) -> str:
        return "" if package_version("xllamacpp") else "xllamacpp is not installed: pip install 'raylm[export]'"

    def version(self) -> str:
        return package_version("xllamacpp")

    def run(self, folder: Path, prompts: list[Prompt], max_tokens: int) -> list[Ran]:
        from importlib import import_module

        # a compiled module without types
        xllamacpp: Any = import_module("xllamacpp")
        params = xllamacpp.CommonParams()
        params.model.path = str(gguf_in(folder))
        params.n_ctx = context_length(prompts, max_tokens)
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads_for(gguf_in(folder))
        params.n_gpu_layers, params.fit_params, params.warmup, params.verbosity = 0, False, False, -1
        # a prompt that shares its beginning with the one before is computed anew: batches of another size round otherwise
        params.cache_prompt, params.cache_ram_mib, params.ui = False, 0, False
        server = xllamacpp.Server(params)
        return [_answer(server.listening_address, prompt, max_tokens) for prompt in prompts]


def gguf_in(folder: Path) -> Path:
    """The one GGUF file of a folder, or the file itself."""
    if folder.is_file():
        return folder
    found = sorted(folder.glob("*.gguf"))
    if len(found) != 1:
        raise ArtifactError(f"{len(found)} GGUF files here, there should be one", where=str(folder))
    return found[0]


def context_length(prompts: list[Prompt], max_tokens: int) -> int:
    """Positions that hold any of the prompts and its answer: no tokenizer makes more tokens than bytes of a text."""
    sizes = [len(p.encode()) if isinstance(p, str) else sum(len(m["content"].encode()) + 64 for m in p) for p in prompts]
    return max(sizes, default=0) + max_tokens + 256


def _answer(address: str, prompt: Prompt, max_tokens: int) -> Ran:
    text = prompt if isinstance(prompt, str) else _ask(address, "apply-template", {"messages": prompt})["prompt"]
    ids = _ask(address, "tokenize", {"content": text, "add_special": True, "parse_special": True})["tokens"]
    asked = {
        "prompt": text,
        "n_predict": max_tokens,
        "temperature": 0.0,
        "samplers": ["temperature"],
        "repeat_penalty": 1.0,
        "cache_prompt": False,
        "n_probs": NUM_LOGPROBS,
        "return_tokens": True,
    }
    said = _ask(address, "completion", asked)
    steps = said.get("completion_probabilities") or []
    places = _places(said["tokens"], [step["id"] for step in steps])
    told = likeliest(len(said["tokens"]), {at: step["top_logprobs"] for at, step in zip(places, steps, strict=True) if at >= 0})
    # the token that ended it is among them
    tokens = said["tokens"][:-1] if said["stop_type"] == "eos" else said["tokens"]
    return Ran(ids, said["tokens_evaluated"], tokens, said["content"], told)


def _places(tokens: list[int], told: list[int]) -> list[int]:
    """Position of each step that the server tells of; -1 where it cannot be known. It leaves out those that end within a
    character."""
    forth, back = [], []
    at = 0
    for token in told:
        at = tokens.index(token, at) + 1
        forth.append(at - 1)
    turned, at = tokens[::-1], 0
    for token in reversed(told):
        at = turned.index(token, at) + 1
        back.append(len(tokens) - at)
    return [first if first == last else -1 for first, last in zip(forth, reversed(back), strict=True)]


def likeliest(positions: int, steps: dict[int, list[dict[str, Any]]]) -> Logprobs | None:
    """Log-probabilities of `positions`, of which llama.cpp tells those in `steps` ({position: its top_logprobs})."""
    import numpy as np

    if not steps:
        return None
    width = max(map(len, steps.values()))
    ids, values = np.full((positions, width), -1, np.int32), np.full((positions, width), -np.inf, np.float32)
    for row, step in steps.items():
        ids[row, : len(step)] = [each["id"] for each in step]
        values[row, : len(step)] = [each["logprob"] for each in step]
    return Logprobs(ids, values)


def _ask(address: str, path: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(f"{address}/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=ONE_S) as answer:
            return json.loads(answer.read())
    except urllib.error.HTTPError as refused:
        raise ArtifactError(f"llama.cpp's server refuses /{path}: {refused.read().decode()[:300]}") from refused
