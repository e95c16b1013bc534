"""A tiny engine that gets other weights while it answers: what was said before, after, and what is refused."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
import torch

from raylm.core.errors import ArtifactError, StageError
from raylm.inference import weight_swap
from raylm.inference.engine import build_engine, set_environment
from raylm.inference.weight_swap import Hold, Swap, Weights, WeightsLost
from raylm.inference.weight_transfer import Probe
from tests.model.tiny import tiny_checkpoint, tiny_model

PROMPT = [1, 3, 77, 90, 200, 4]
OTHER = [1, 3, 88, 91, 211, 4]
LENGTH = 160
MOST = 1e-3
pytestmark = [pytest.mark.vllm, pytest.mark.slow]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Checkpoints of one shape: `a`, which is served first, and `b`; `planted` is `b` with one tensor changed, `lacks` lacks one,
    `wide` is of another shape under the same names, `extra` has one that the network does not know."""
    from safetensors.torch import save_file

    root = tmp_path_factory.mktemp("swap")
    a = tiny_checkpoint(root / "a")
    found = {"a": a}
    models = {name: tiny_model(vocab=512, seed=7) for name in ("b", "planted", "lacks", "extra")}
    models["wide"] = tiny_model(vocab=512, seed=7, hidden=96)
    with torch.no_grad():
        models["planted"].model.layers[1].mlp.down_proj.weight[3] += 0.5
    for name, model in models.items():
        found[name] = root / name
        state = {key: value for key, value in model.state_dict().items() if key != "lm_head.weight"}
        if name == "lacks":
            del state["model.layers.1.mlp.down_proj.weight"]
        if name == "extra":
            state["model.layers.1.mlp.gate.weight"] = torch.zeros(3)
        model.save_pretrained(found[name])
        save_file(state, found[name] / "model.safetensors", {"format": "pt"})
    return found


@pytest.fixture(scope="module")
def runner():
    with asyncio.Runner() as held:
        yield held


@pytest.fixture(scope="module")
def engine(runner, folders):
    # what these leave in a process must not keep an engine from starting there
    import flask  # noqa: F401
    import numba  # noqa: F401

    from raylm.inference.vllm_private import WEIGHT_RECEIVER

    set_environment(False)

    async def build():
        made = build_engine(
            str(folders["a"]),
            dtype="float32",
            max_len=256,
            gpu=False,
            memory_share=0.5,
            own_process=False,
            worker_extension_cls=WEIGHT_RECEIVER,
            scheduling_policy="priority",
            generation_config="vllm",
        )
        await made.update_weight_version("a")
        return made

    made = runner.run(build())
    yield made
    made.shutdown()
    from vllm.distributed.parallel_state import destroy_distributed_environment, destroy_model_parallel

    # the next test of this process is alone again
    destroy_model_parallel()
    destroy_distributed_environment()


def greedy(folder, prompt, steps):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
    out = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=steps,
        min_new_tokens=steps,
        do_sample=False,
        pad_token_id=0,
    )
    return out[0, len(prompt) :].tolist()


def probes_of(folder):
    """What transformers says of two sequences."""
    from transformers import AutoModelForCausalLM

    model, found = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval(), []
    for tokens in ([*PROMPT, *range(40, 70)], [*OTHER, *range(100, 120)]):
        with torch.no_grad():
            said = model(torch.tensor([tokens])).logits[0, :-1].log_softmax(-1)
        found.append(Probe(tokens, said.gather(1, torch.tensor(tokens[1:])[:, None])[:, 0].tolist()))
    return found


class Stream:
    """One greedy answer, token by token as a client sees it: what waits in the hold is not seen."""

    def __init__(self, engine: Any, hold: Hold, prompt: list[int], number: str, length: int = LENGTH) -> None:
        self.tokens, self.times, self.spans, self.dropped = [], [], [], False
        self._ask, self._hold = (engine, prompt, number, length), hold
        self.began = asyncio.Event()
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        engine, prompt, number, length = self._ask
        asked = SamplingParams(temperature=0, max_tokens=length, ignore_eos=True, output_kind=RequestOutputKind.DELTA)
        since = self._hold.dropped
        async for output in engine.generate({"prompt_token_ids": prompt}, asked, number):
            if not await self._hold.passes(since):
                self.dropped = True
                return
            self.tokens += output.outputs[0].token_ids
            self.times.append(time.perf_counter())
            self.spans = [tuple(vars(each).values()) for each in output.outputs[0].weight_versions or ()]
            if len(self.tokens) > 20:
                self.began.set()


def weights(folders, name, label=None):
    return Weights(str(folders[name]), label or name)


async def streams(engine, hold):
    made = [Stream(engine, hold, PROMPT, "one"), Stream(engine, hold, OTHER, "two")]
    await asyncio.gather(*(each.began.wait() for each in made))
    return made


def test_streams_go_on_with_the_new_weights(runner, engine, folders):
    async def scene():
        hold = Hold()
        under_way = await streams(engine, hold)
        done = await Swap(engine, hold).run(weights(folders, "a"), weights(folders, "b"), probes_of(folders["b"]), MOST)
        await asyncio.gather(*(each.task for each in under_way))
        later = Stream(engine, hold, PROMPT, "three", 30)
        await later.task
        back = await Swap(engine, hold).run(weights(folders, "b"), weights(folders, "a"), probes_of(folders["a"]), MOST)
        return under_way, done, later, back

    under_way, done, later, back = runner.run(scene())
    for stream, prompt, number in zip(under_way, (PROMPT, OTHER), ("one", "two"), strict=True):
        ((_, at),) = done.under_way[number]
        assert 20 < at < LENGTH and len(stream.tokens) == LENGTH
        assert stream.spans == [("a", 0, at), ("b", at, LENGTH)]
        assert stream.tokens[:at] == greedy(folders["a"], prompt, at)
        assert stream.tokens[at:] == greedy(folders["b"], [*prompt, *stream.tokens[:at]], LENGTH - at)
    assert later.spans == [("b", 0, 30)] and later.tokens == greedy(folders["b"], PROMPT, 30)
    assert done.nats < MOST and back.nats < MOST and done.label == "b"
    gaps = [max(b - a for a, b in zip(each.times, each.times[1:], strict=False)) for each in under_way]
    print(f"stall at the streams {max(gaps):.3f} s, held {done.held_s:.3f} s, beside {done.beside_s:.3f} s; nats {done.nats:.2g}")


def test_weights_that_are_not_what_they_are_said_to_be_never_answer(runner, engine, folders):
    async def scene():
        hold = Hold()
        under_way = await streams(engine, hold)
        with pytest.raises(StageError, match=r"does not say what this checkpoint says.*differ by"):
            await Swap(engine, hold).run(weights(folders, "a"), weights(folders, "planted", "b"), probes_of(folders["b"]), MOST)
        await asyncio.gather(*(each.task for each in under_way))
        later = Stream(engine, hold, PROMPT, "four", 30)
        await later.task
        return under_way, later

    under_way, later = runner.run(scene())
    for stream, prompt in zip(under_way, (PROMPT, OTHER), strict=True):
        assert stream.dropped and stream.tokens == greedy(folders["a"], prompt, len(stream.tokens))
    assert later.spans == [("a", 0, 30)] and later.tokens == greedy(folders["a"], PROMPT, 30) and not later.dropped


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("lacks", "1 weights are missing"),
        ("wide", "weights have another shape"),
        ("extra", "cannot be loaded, the old ones are back"),
    ],
)
def test_another_network_changes_nothing(runner, engine, folders, name, why):
    async def scene():
        hold = Hold()
        under_way = await streams(engine, hold)
        with pytest.raises(ArtifactError, match=why):
            await Swap(engine, hold).run(weights(folders, "a"), weights(folders, name), probes_of(folders["b"]), MOST)
        await asyncio.gather(*(each.task for each in under_way))
        return under_way

    for stream, prompt in zip(runner.run(scene()), (PROMPT, OTHER), strict=True):
        assert not stream.dropped and stream.tokens == greedy(folders["a"], prompt, LENGTH)
        assert {span[0] for span in stream.spans} == {"a"}


def test_an_engine_that_does_not_go_on_must_end():
    class Still:
        async def resume_generation(self):
            raise StageError("it stands still")

    # refused alone, it would hold every answer for ever, with the new weights
    with pytest.raises(WeightsLost, match="does not go on: it stands still"):
        asyncio.run(Swap(Still(), Hold())._verdict([], []))


def test_weights_on_a_disk_that_went_away_are_refused_and_end_nothing(monkeypatch):
    def lost(folder):
        raise OSError(5, "Input/output error")
        yield

    monkeypatch.setattr(weight_swap, "_tensors", lost)
    with pytest.raises(ArtifactError, match=r"cannot be read: .*Input/output error"):
        asyncio.run(Swap(None, Hold())._beside(Weights("/new", "b")))
