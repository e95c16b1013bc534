"""A tiny checkpoint and one held generator: its tokens and log-probabilities against transformers."""

from __future__ import annotations

import pytest

from raylm.core.errors import ArtifactError, DataError, PlacementError, StageError
from raylm.inference.buckets import pack, weights_digest
from raylm.inference.calls import answer_of
from raylm.inference.completions import Sampling, VersionSpan
from raylm.inference.config import GeneratorSpec
from raylm.inference.generator import stream
from raylm.inference.parity import Sample, compare_engine
from raylm.inference.pool import hold_pool
from raylm.inference.probe import allowed, apart
from raylm.inference.sync.delta import Delta
from raylm.inference.sync.object_store import ObjectStore
from raylm.inference.weight_transfer import Probe, send_weights
from tests.model.tiny import tiny_checkpoint, tiny_model

MAX_LEN = 128
PROMPTS = [[1, 3, 70 + 7 * row, 90 + row, 200 + row * 11, 4] for row in range(8)]
GREEDY = Sampling(max_tokens=16, temperature=0, stop_at_eos=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def pool(workers, folder):
    """One generator."""
    held = hold_pool(workers, GeneratorSpec())
    held.start(str(folder), MAX_LEN)
    yield held
    workers.release("generator")


def version_of(pool):
    return answer_of(pool._actors[0].version.remote(), "version", 60)


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
def test_more_tokens_at_once_than_a_step_takes(pool):
    """20,000 tokens of seeded requests: none may be split over two steps, and each gives what it gives alone."""
    prompts = [[1, 3 + row, *range(40, 140)] for row in range(200)]
    sampling = Sampling(max_tokens=2, stop_at_eos=False)
    together = pool.generate(prompts, sampling, list(range(200)))
    alone = pool.generate(prompts[150:151], sampling, [150])
    assert together[150][0].tokens == alone[0][0].tokens
    assert {len(row[0].tokens) for row in together} == {2}


@pytest.mark.ray
@pytest.mark.vllm
def test_greedy_tokens_equal_transformers(pool, folder):
    found = pool.generate(PROMPTS, GREEDY)
    model = reference(folder)
    assert [row[0].tokens for row in found] == [greedy_by_transformers(model, prompt, 16) for prompt in PROMPTS]
    assert {row[0].finish_reason for row in found} == {"length"}
    assert version_of(pool) == 0 and {row[0].versions for row in found} == {(VersionSpan(0, 0, 16),)}


@pytest.mark.ray
@pytest.mark.vllm
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_are_those_of_the_distribution_sampled_from(pool, folder, temperature):
    found = pool.generate(PROMPTS, Sampling(max_tokens=12, temperature=temperature, stop_at_eos=False))
    model = reference(folder)
    for prompt, (completion,) in zip(PROMPTS, found, strict=True):
        expected = logprobs_by_transformers(model, prompt, completion.tokens, temperature)
        assert completion.logprobs == pytest.approx(expected, abs=1e-4)


@pytest.mark.ray
@pytest.mark.vllm
def test_an_engine_that_says_something_else_than_the_trainer_is_refused(workers, pool, folder):
    model, other = reference(folder), perturbed(seed=7)[0].eval()

    def samples(of):
        # the last token of each may be the last that the model takes
        tokens = [[*prompt, *range(40, 40 + 8 * at)] for at, prompt in enumerate(PROMPTS)]
        said = [logprobs_by_transformers(of, row[:2], row[2:], 1.0) for row in tokens]
        return [Sample(row, dict(enumerate(each, 2))) for row, each in zip(tokens, said, strict=True)]

    def compared(of):
        return compare_engine(workers, GeneratorSpec(), str(folder), samples(of), "float32", lambda dtype: 1e-4)

    found = compared(model)
    assert found["vllm_nats"] < 1e-4 and found["vllm_dtype"] == "float32" and found["vllm_tokens"] == 8 * 4 + 8 * 28
    with pytest.raises(StageError, match=r"vLLM does not say what .* of 256 tokens in 8 sequences differ by .*most, by"):
        compared(other)


@pytest.mark.ray
@pytest.mark.vllm
def test_a_seed_gives_the_same_samples_whatever_is_in_the_batch(pool):
    sampling = Sampling(max_tokens=12, n=3)
    seeds = list(range(100, 108))
    together = pool.generate(PROMPTS, sampling, seeds)
    alone = [pool.generate([prompt], sampling, [seed])[0] for prompt, seed in zip(PROMPTS, seeds, strict=True)]
    assert [[c.tokens for c in row] for row in together] == [[c.tokens for c in row] for row in alone]
    assert len({tuple(c.tokens) for c in together[0]}) == 3


@pytest.mark.ray
@pytest.mark.vllm
def test_a_completion_ends_at_the_end_token_and_keeps_it(pool):
    found = pool.generate(PROMPTS * 8, Sampling(max_tokens=100, temperature=1.5))
    stopped = [row[0] for row in found if row[0].finish_reason == "stop"]
    assert stopped
    assert all(c.tokens[-1] == 2 and 2 not in c.tokens[:-1] and "<|end|>" not in c.text for c in stopped)


@pytest.mark.ray
@pytest.mark.vllm
def test_weights_that_were_sent_are_the_ones_that_answer(pool, folder):
    """In buckets smaller than most tensors, after a transfer that broke off in the middle."""
    model, state = perturbed(seed=7)
    before = pool.generate(PROMPTS, GREEDY)

    def broken():
        yield from list(state.items())[:5]
        raise ConnectionError

    with pytest.raises(ConnectionError):
        pool.sync(lambda actors, number: send_weights(broken(), actors, number, 60.0, bucket_bytes=20_000), 4)
    with pytest.raises(PlacementError, match="no whole set of weights"):
        pool.generate(PROMPTS, GREEDY)
    sent = []
    pool.sync(
        lambda actors, number: sent.append(send_weights(state.items(), actors, number, 60.0, bucket_bytes=20_000)) or sent[0], 5
    )
    assert sent[0].digest == weights_digest(state.items()) and sent[0].lost == {}
    assert version_of(pool) == 5
    after = pool.generate(PROMPTS, GREEDY)
    assert [row[0].tokens for row in after] == [greedy_by_transformers(model, prompt, 16) for prompt in PROMPTS]
    assert after[0][0].versions == (VersionSpan(5, 0, 16),)
    pool.start(str(folder), MAX_LEN, dtype="float32")
    again = pool.generate(PROMPTS, GREEDY)
    assert [row[0].tokens for row in again] == [row[0].tokens for row in before]


@pytest.mark.ray
@pytest.mark.vllm
@pytest.mark.parametrize("card", [ObjectStore(), Delta()], ids=["object_store", "delta"])
def test_the_weights_of_every_sync_answer_and_what_was_cached_of_others_does_not(pool, folder, card):
    """Prompts of several cache blocks, the same after each sync. What breaks off before all came leaves the version in use."""
    prompts = [[1, *range(40 + row, 120 + row)] for row in range(4)]
    pool.start(str(folder), MAX_LEN, dtype="float32")
    (actor,), sender = pool._actors, card.sender()
    assert answer_of(actor.__ray_call__.remote(lambda self: self._engine.vllm_config.cache_config.enable_prefix_caching), "", 60)
    before = [row[0].tokens for row in pool.generate(prompts, GREEDY)]
    model, state = perturbed(seed=7)
    for version in (1, 2, 3):
        for tensor in state.values():
            tensor[..., :1] += 0.02 * version
        sent = []
        pool.sync(
            lambda actors, number, sent=sent: sent.append(sender.send(state.items(), actors, number, 60.0)) or sent[0], version
        )
        found = pool.generate(prompts, GREEDY)
        assert [row[0].tokens for row in found] == [greedy_by_transformers(model, prompt, 16) for prompt in prompts] != before
        assert found[0][0].versions == (VersionSpan(version, 0, 16),) and sent[0].digest == weights_digest(state.items())

    def broken():
        yield from list(state.items())[:5]
        raise ConnectionError

    with pytest.raises(ConnectionError):
        sender.send(broken(), [actor], 4, 60.0)
    assert version_of(pool) == 3 and [row[0].tokens for row in pool.generate(prompts, GREEDY)] == [row[0].tokens for row in found]


@pytest.mark.ray
@pytest.mark.vllm
def test_weights_that_come_in_the_middle_of_a_request_go_on_with_it(pool, folder):
    import ray

    _, state = perturbed(seed=7)
    pool.start(str(folder), MAX_LEN, dtype="float32")
    long = Sampling(max_tokens=120, temperature=1.0, stop_at_eos=False)
    running = [pool._actors[0].generate.remote(prompt, long, 3) for prompt in PROMPTS]
    ray.wait(running, timeout=0.05)
    pool.sync(lambda actors, number: send_weights(state.items(), actors, number, 60.0), 1)
    for (completion,) in ray.get(running, timeout=60):
        assert len(completion.tokens) == 120
        assert completion.versions[0].start == 0 and completion.versions[-1].end == 120
        assert [span.version for span in completion.versions] in ([0, 1], [1], [0])


@pytest.mark.ray
@pytest.mark.vllm
def test_what_cannot_be_held_is_refused_and_nothing_changes(pool, folder, tmp_path):
    actor = pool._actors[0]
    pool.start(str(folder), MAX_LEN, dtype="float32")
    _, state = perturbed(seed=7)
    del state["model.norm.weight"]
    with pytest.raises(ArtifactError, match=r"model\.norm\.weight"):
        pool.sync(lambda actors, number: send_weights(state.items(), actors, number, 60.0, names=list(state)), 9)
    other = tiny_checkpoint(tmp_path / "other", layers=1)
    with pytest.raises(PlacementError, match="differs in network"):
        answer_of(actor.start.remote(str(other), MAX_LEN, dtype="float32"), "start", 60)
    with pytest.raises(DataError, match="a prompt has 200 tokens"):
        pool.generate([[5] * 200], Sampling())
    assert version_of(pool) == 0


@pytest.mark.ray
@pytest.mark.vllm
def test_weights_that_are_not_what_was_sent_are_refused(pool, folder):
    (actor,), (_, state) = pool._actors, perturbed(seed=7)

    def answered(method, *args):
        return answer_of(getattr(actor, method).remote(*args), method, 60)

    answered("begin_weights", "late")
    answered("begin_weights", "now")
    for bucket in pack(state.items(), 10**6):
        # a bucket of a transfer that broke off may arrive when the next one has begun
        with pytest.raises(ArtifactError, match="transfer late came, the one begun last is now"):
            answered("take_weights", bucket, "late")
        answered("take_weights", bucket, "now")
    with pytest.raises(ArtifactError, match="transfer late came"):
        answered("finish_weights", 8, "0000", "late")
    with pytest.raises(ArtifactError, match="the trainer sent 0000") as caught:
        answered("finish_weights", 8, "0000", "now")
    assert "version 8" in caught.value.where and version_of(pool) is None
    pool.start(str(folder), MAX_LEN, dtype="float32")


@pytest.mark.ray
@pytest.mark.vllm
def test_a_layer_that_got_no_weights_is_named_and_its_old_ones_do_not_answer(pool, folder):
    """Of names that the engine's layers do not know, or of a part of a fused layer."""
    (actor,), (_, state) = pool._actors, perturbed(seed=7)

    def answered(method, *args):
        return answer_of(getattr(actor, method).remote(*args), method, 60)

    # as where a checkpoint's names and those of the engine's class have grown apart
    known = answer_of(actor.__ray_call__.remote(lambda self: self._names), "version", 60)
    left_out = ("model.norm.weight", "model.layers.0.mlp.up_proj.weight")
    answer_of(actor.__ray_call__.remote(lambda self: self._names.difference_update(left_out)), "version", 60)
    assert set(left_out) <= known
    answered("begin_weights", "now")
    for bucket in pack([(name, tensor) for name, tensor in state.items() if name not in left_out], 10**6):
        answered("take_weights", bucket, "now")
    with pytest.raises(StageError, match=r"for 2 parameters: model\.layers\.0\.mlp\.gate_up_proj\.weight, model\.norm\.weight"):
        answered("finish_weights", 8, "0000", "now")
    assert version_of(pool) is None
    pool.start(str(folder), MAX_LEN, dtype="float32")


@pytest.mark.ray
@pytest.mark.vllm
def test_a_generator_sleeps_and_wakes_with_new_weights_and_its_requests_go_on(pool, folder):
    """The order of calls; a CPU gives no memory back."""
    import ray

    pool.start(str(folder), MAX_LEN, dtype="float32")
    (actor,), (model, state) = pool._actors, perturbed(seed=7)
    long = Sampling(max_tokens=120, temperature=1.0, stop_at_eos=False)
    running = [actor.generate.remote(prompt, long, 3) for prompt in PROMPTS]
    ray.wait(running, timeout=0.05)
    answer_of(actor.sleep.remote(), "sleep", 60)
    assert version_of(pool) is None
    late = actor.generate.remote(PROMPTS[0], GREEDY, 0)
    assert not ray.wait([late], timeout=0.5)[0], "one that sleeps answers nothing"
    assert not send_weights(state.items(), [actor], 1, 60.0).lost
    assert ray.get(late, timeout=60)[0].tokens == greedy_by_transformers(model.eval(), PROMPTS[0], 16)
    for (completion,) in ray.get(running, timeout=60):
        assert len(completion.tokens) == 120 and completion.versions[-1].end == 120
        assert [span.version for span in completion.versions] in ([0, 1], [1], [0])
    # one that sleeps takes the checkpoint of the next stage
    answer_of(actor.sleep.remote(), "sleep", 60)
    pool.start(str(folder), MAX_LEN, dtype="float32")
    found = pool.generate(PROMPTS[:2], GREEDY)
    plain = reference(folder)
    assert [row[0].tokens for row in found] == [greedy_by_transformers(plain, prompt, 16) for prompt in PROMPTS[:2]]


def skip_repack(actor, skips):
    """Let the engine's workers keep the packed copy of the output head, or make it anew."""

    def patch(self, skips):
        from raylm.inference.vllm_private import WeightReceiver

        plain = getattr(WeightReceiver, "plain", WeightReceiver.raylm_repack_head)
        WeightReceiver.plain = plain
        WeightReceiver.raylm_repack_head = (lambda receiver: None) if skips else plain

    answer_of(actor.__ray_call__.remote(patch, skips), "patch", 60)


@pytest.mark.ray
@pytest.mark.vllm
def test_a_probe_sees_weights_that_are_not_the_trainer_s(pool, folder):
    """Though their digest is right: a skipped repack of the tied head, a half-sent set, one tensor that was changed."""
    pool.start(str(folder), MAX_LEN, dtype="float32")
    (actor,), (model, state), old = pool._actors, perturbed(seed=7), reference(folder).state_dict()
    rows = [[*prompt, *range(40, 60)] for prompt in PROMPTS[:4]]
    probes = [Probe(row, logprobs_by_transformers(model.eval(), row[:1], row[1:], 1.0)) for row in rows]

    def after(sent, skips=False):
        skip_repack(actor, skips)
        assert not send_weights(sent.items(), [actor], 3, 60.0).lost
        return apart([answer_of(actor.logprobs.remote(row), "logprobs", 60) for row in rows], probes)

    bound = allowed("float32", None)
    assert after(state) < bound / 10
    half = {name: old[name] if at % 2 else tensor for at, (name, tensor) in enumerate(state.items())}
    changed = {**state, "model.layers.0.mlp.down_proj.weight": state["model.layers.0.mlp.down_proj.weight"] + 0.05}
    assert after(half) > 10 * bound and after(changed) > bound
    after(old)
    assert after(state, skips=True) > 10 * bound
    assert after(state) < bound / 10
    pool.start(str(folder), MAX_LEN, dtype="float32")


def test_streams_of_neighbouring_seeds_differ():
    assert len({stream(seed, place) for seed in range(50) for place in range(8)}) == 400
