"""Takes a tiny checkpoint and one held generator, proves its tokens and log-probabilities against transformers."""

from __future__ import annotations

import pytest

from raylm.core.errors import ArtifactError, DataError, PlacementError
from raylm.inference.generator import Sampling, as_arrays, ask, hold_generator, stream, weights_digest
from tests.model.tiny import tiny_checkpoint, tiny_model

MAX_LEN = 128
PROMPTS = [[1, 3, 70 + 7 * row, 90 + row, 200 + row * 11, 4] for row in range(8)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def generator(workers, folder):
    handle = hold_generator(workers)
    ask(handle, "start", str(folder), MAX_LEN)
    yield handle
    workers.release("generator")


def reference(folder):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()


def greedy_by_transformers(model, prompt, steps):
    import torch

    out = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=steps,
        min_new_tokens=steps,
        do_sample=False,
        pad_token_id=0,
    )
    return out[0, len(prompt) :].tolist()


def logprobs_by_transformers(model, prompt, tokens, temperature):
    import torch

    ids = torch.tensor([prompt + tokens])
    with torch.no_grad():
        logits_TV = model(ids).logits[0, len(prompt) - 1 : -1]
    return (logits_TV / temperature).log_softmax(-1).gather(1, torch.tensor(tokens)[:, None])[:, 0].tolist()


def perturbed(seed):
    """State of a second network of the same shape, under the names of a checkpoint."""
    model = tiny_model(vocab=512, seed=seed)
    return model, {name: tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}


@pytest.mark.ray
@pytest.mark.vllm
def test_greedy_tokens_equal_transformers(generator, folder):
    sampling = Sampling(max_tokens=16, temperature=0, stop_at_eos=False)
    drawn = ask(generator, "generate", PROMPTS, sampling)
    model = reference(folder)
    assert [row[0].tokens for row in drawn] == [greedy_by_transformers(model, prompt, 16) for prompt in PROMPTS]
    assert {row[0].finish_reason for row in drawn} == {"length"}
    assert ask(generator, "version") == 0


@pytest.mark.ray
@pytest.mark.vllm
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_are_those_of_the_distribution_drawn_from(generator, folder, temperature):
    drawn = ask(generator, "generate", PROMPTS, Sampling(max_tokens=12, temperature=temperature, stop_at_eos=False))
    model = reference(folder)
    for prompt, (completion,) in zip(PROMPTS, drawn, strict=True):
        expected = logprobs_by_transformers(model, prompt, completion.tokens, temperature)
        assert completion.logprobs == pytest.approx(expected, abs=1e-4)


@pytest.mark.ray
@pytest.mark.vllm
def test_a_seed_gives_the_same_samples_whatever_is_in_the_batch(generator):
    sampling = Sampling(max_tokens=12, n=3)
    seeds = list(range(100, 108))
    together = ask(generator, "generate", PROMPTS, sampling, seeds=seeds)
    alone = [ask(generator, "generate", [prompt], sampling, seeds=[seed])[0] for prompt, seed in zip(PROMPTS, seeds, strict=True)]
    assert [[c.tokens for c in row] for row in together] == [[c.tokens for c in row] for row in alone]
    assert len({tuple(c.tokens) for c in together[0]}) == 3


@pytest.mark.ray
@pytest.mark.vllm
def test_a_completion_ends_at_the_end_token_and_keeps_it(generator):
    drawn = ask(generator, "generate", PROMPTS * 8, Sampling(max_tokens=100, temperature=1.5))
    stopped = [row[0] for row in drawn if row[0].finish_reason == "stop"]
    assert stopped
    assert all(c.tokens[-1] == 2 and 2 not in c.tokens[:-1] and "<|end|>" not in c.text for c in stopped)


@pytest.mark.ray
@pytest.mark.vllm
def test_loaded_weights_are_the_ones_that_answer(generator, folder):
    model, state = perturbed(seed=7)
    sampling = Sampling(max_tokens=16, temperature=0, stop_at_eos=False)
    before = ask(generator, "generate", PROMPTS, sampling)
    digest = ask(generator, "load", as_arrays(state.items()), 5)
    assert digest == weights_digest(state.items()) == ask(generator, "digest")
    assert ask(generator, "version") == 5
    after = [row[0].tokens for row in ask(generator, "generate", PROMPTS, sampling)]
    assert after == [greedy_by_transformers(model, prompt, 16) for prompt in PROMPTS]
    ask(generator, "start", str(folder), MAX_LEN, dtype="float32")
    assert ask(generator, "generate", PROMPTS, sampling) == before


@pytest.mark.ray
@pytest.mark.vllm
def test_what_cannot_be_held_is_refused_and_nothing_changes(generator, folder, tmp_path):
    ask(generator, "start", str(folder), MAX_LEN, dtype="float32")
    _, state = perturbed(seed=7)
    del state["model.norm.weight"]
    with pytest.raises(ArtifactError, match=r"model\.norm\.weight"):
        ask(generator, "load", as_arrays(state.items()), 9)
    other = tiny_checkpoint(tmp_path / "other", layers=1)
    with pytest.raises(PlacementError, match="differs in network"):
        ask(generator, "start", str(other), MAX_LEN, dtype="float32")
    with pytest.raises(DataError, match="prompt 0 has 200 tokens"):
        ask(generator, "generate", [[5] * 200], Sampling())
    assert ask(generator, "version") == 0


@pytest.mark.ray
@pytest.mark.vllm
def test_a_killed_generator_is_said_in_words(workers):
    import ray

    handle = hold_generator(workers, cpus=0, name="doomed")
    ray.kill(handle)
    with pytest.raises(PlacementError, match="process is dead"):
        ask(handle, "version", timeout_s=60)
    workers.release("doomed")


def test_digest_is_over_names_shapes_and_bytes():
    import numpy
    import torch

    named = [("b", torch.ones(2, 3)), ("a", torch.zeros(4, dtype=torch.bfloat16)), ("c", torch.tensor(1.0))]
    assert weights_digest(named) == weights_digest(reversed(as_arrays(named)))
    assert weights_digest(named) != weights_digest([("b", torch.ones(3, 2)), *named[1:]])
    assert weights_digest(named) != weights_digest([("x", numpy.ones((2, 3), numpy.float32)), *as_arrays(named[1:])])


def test_streams_of_neighbouring_seeds_differ():
    assert len({stream(seed, place) for seed in range(50) for place in range(8)}) == 400
