"""Adapters that come and go while an engine answers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from raylm.core.errors import ConfigError
from raylm.inference.vllm_adapters_private import load_adapter, unload_adapter
from raylm.serve.directory import AdapterOrder
from raylm.serve.engine.adapter_check import Base
from raylm.serve.engine.adapters import Adapters, Hooks
from tests.model.tiny import tiny_checkpoint
from tests.serve.in_process import KEY
from tests.serve.tiny_adapter import greedy, write_adapter

PROMPT = [77, 78, 90, 120, 200]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("base") / "model")


def noted(refuses: str = "") -> tuple[list[Any], Hooks]:
    """Hooks that write down what they are asked."""
    asked: list[Any] = []

    async def load(name: str, number: int, path: str) -> None:
        if name == refuses:
            raise ConfigError("the engine cannot take this adapter")
        asked.append((name, number))

    async def unload(name: str) -> None:
        asked.append(name)

    return asked, Hooks(load, unload)


def test_a_replica_brings_itself_to_what_is_ordered(model, tmp_path):
    asked, hooks = noted(refuses="bad")
    one, two = (str(write_adapter(model, tmp_path / name, seed)) for seed, name in enumerate(("one", "two")))
    adapters = Adapters(Base(str(model), "f00d", 8), 2, hooks)

    def bring(*orders: tuple[str, str]) -> bool:
        return asyncio.run(adapters.bring(tuple(AdapterOrder(*order) for order in orders)))

    assert bring(("a", one)) and adapters.names == ("a",)
    assert not bring(("a", one))
    # another folder under the same name is another adapter
    assert bring(("a", two), ("b", one)) and adapters.names == ("a", "b")
    assert asked == [("a", 1), "a", ("a", 2), ("b", 3)]
    assert adapters.lineage["a"]["fingerprint"] != adapters.lineage["b"]["fingerprint"]
    assert bring(("b", one), ("bad", two), ("gone", str(tmp_path / "gone")), ("b", one))
    assert adapters.names == ("b",) and set(adapters.failed) == {"bad", "gone"}
    assert "no adapter here" in adapters.failed["gone"]
    # it is not tried at each beat
    assert not bring(("b", one), ("bad", two), ("gone", str(tmp_path / "gone")))
    assert bring(("b", one), ("c", two), ("d", one)) and "room for 2" in adapters.failed["d"]
    assert bring() and not adapters.names and not adapters.failed


@pytest.mark.vllm
@pytest.mark.slow
def test_an_engine_answers_as_peft_does_under_each_name(tiny, tmp_path):
    import openai

    client = openai.OpenAI(base_url=tiny.url, api_key=KEY, max_retries=0, timeout=60)

    def answer(name: str) -> list[int]:
        asked: Any = {"prompt": PROMPT, "max_tokens": 12, "temperature": 0}
        reply = client.completions.create(model=name, **asked, extra_body={"return_token_ids": True, "ignore_eos": True})
        return list(reply.choices[0].model_extra["token_ids"])

    app = tiny.served.inner
    folders = {name: write_adapter(tiny.model, tmp_path / name, seed) for seed, name in enumerate(("one", "two"))}
    expected = {name: greedy(tiny.model, folder, PROMPT, 12) for name, folder in folders.items()}
    plain = greedy(tiny.model, None, PROMPT, 12)
    assert len({tuple(each) for each in (plain, *expected.values())}) == 3
    hooks = Hooks(lambda *order: load_adapter(app, *order), lambda name: unload_adapter(app, name))
    adapters = Adapters(Base(str(tiny.model), "f00d", 8), 2, hooks)

    def bring(*orders: tuple[str, str]) -> None:
        tiny.call(adapters.bring(tuple(AdapterOrder(name, str(folders[at])) for name, at in orders)))
        assert not adapters.failed
        tiny.have(*adapters.names)

    bring(("french", "one"), ("german", "two"))
    assert answer("french") == expected["one"] and answer("german") == expected["two"] and answer("raylm") == plain
    # the same name with other weights: nothing that was computed with the earlier ones is kept
    bring(("french", "two"))
    assert answer("french") == expected["two"]
    with pytest.raises(openai.NotFoundError):
        answer("german")
    # what a prompt was worth can be asked with adapters loaded: vLLM's engine dies of it where its output layer takes some
    scored: Any = client.completions.create(model="french", prompt=PROMPT, max_tokens=1, echo=True, logprobs=1)
    assert len(scored.choices[0].logprobs.token_logprobs) == len(PROMPT) + 1
    bring()
    with pytest.raises(openai.NotFoundError):
        answer("french")
    assert answer("raylm") == plain
