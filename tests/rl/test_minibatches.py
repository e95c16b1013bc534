"""Samples laid out: minibatches, ranks, micro batches, and rows in which a prompt is computed once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from raylm.model.attention import install
from raylm.model.scores import ask
from raylm.rl.minibatches import Micro, in_minibatches, lay_out, micros_of, pays
from raylm.rl.types import Experience, Sample, packed
from tests.model.tiny import tiny_model


def groups(sizes: list[int], prompt: int = 4, seed: int = 0) -> list[Sample]:
    """Groups of completions of unequal length; some tokens of the longer ones are not learned from."""
    draw, made = np.random.default_rng(seed), []
    for row, size in enumerate(sizes):
        start = draw.integers(3, 64, prompt).tolist()
        for _ in range(size):
            count = int(draw.integers(1, 9))
            tokens, mask = draw.integers(3, 64, count).tolist(), [1.0] * count
            if count > 4:
                mask[2] = 0.0
            made.append(Sample(row, [*start, *tokens], prompt, [-1.0] * count, 0.0, mask=mask))
    return made


def test_minibatches_are_whole_groups_in_an_order_of_the_seed():
    samples = groups([3] * 6)
    parts = in_minibatches(samples, 3, 7)
    assert [len(part) for part in parts] == [6, 6, 6]
    assert all(len({sample.row for sample in part}) == 2 for part in parts)
    assert sorted(id(sample) for part in parts for sample in part) == sorted(map(id, samples))
    assert parts == in_minibatches(samples, 3, 7) != in_minibatches(samples, 3, 8)
    assert in_minibatches(samples, 1, 7) == [samples]


def test_minibatches_of_fewer_groups_than_parts_are_of_samples_and_may_be_empty():
    parts = in_minibatches(groups([4, 3]), 3, 0)
    assert sorted(len(part) for part in parts) == [2, 2, 3]
    assert sorted(len(part) for part in in_minibatches(groups([1]), 2, 0)) == [0, 1]


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(("sizes", "world"), [([8, 8, 8], 2), ([5, 1, 7], 4), ([2], 3)])
def test_ranks_get_every_sample_once_equally_many_micro_batches_and_about_as_many_tokens(sizes, world, shared):
    samples = groups(sizes)
    shares = [micros_of(samples, rank, world, 4, shared) for rank in range(world)]
    assert len({len(share) for share in shares}) == 1
    real = [sample for share in shares for micro in share if micro.real for sample in micro.samples]
    assert sorted(map(id, real)) == sorted(map(id, samples))
    assert all(len(micro.samples) <= 4 for share in shares for micro in share)
    tokens = [sum(len(s.tokens) for micro in share if micro.real for s in micro.samples) for share in shares]
    if len(samples) >= 4 * world:
        assert max(tokens) < 1.15 * min(tokens)


def test_a_prompt_is_computed_once_and_scores_stay_what_they_are():
    model = install_on(tiny_model(vocab=64, hidden=32, layers=2))
    samples = groups([5, 1, 3], prompt=20)
    (padded,) = (lay_out(each, 0, "cpu", False) for each in micros_of(samples, 0, 1, 16, False))
    (shared,) = (lay_out(each, 0, "cpu", True) for each in micros_of(samples, 0, 1, 16, True))
    assert shared.batch.tokens_BT.numel() < 0.6 * padded.batch.tokens_BT.numel()
    found = []
    for laid in (padded, shared):
        scores = ask(model, laid.asking(sample.mask_or_ones for sample in laid.micro.samples))
        by_id = dict(zip(map(id, laid.micro.samples), laid.gathered(scores.logprob_BT), strict=True))
        found.append([by_id[id(sample)] for sample in samples])
    for sample, left, right in zip(samples, *found, strict=True):
        tokens = torch.tensor([sample.tokens])
        with torch.no_grad():
            alone = model(tokens).logits.log_softmax(-1)[0, sample.num_prompt - 1 : -1]
        alone = alone.gather(1, tokens[0, sample.num_prompt :, None])[:, 0].numpy() * np.asarray(sample.mask)
        assert np.abs(left - alone).max() < 1e-5 and np.abs(right - alone).max() < 1e-5


def test_a_prompt_is_computed_once_where_that_saves_enough():
    assert pays(groups([8, 8], prompt=64), 16) and not pays(groups([8, 8], prompt=4), 16)
    assert not pays(groups([1] * 16, prompt=64), 16), "nothing is shared"


def test_a_micro_batch_that_fills_up_asks_for_nothing():
    samples = groups([2])
    for shared in (False, True):
        laid = lay_out(Micro(samples, real=False), 0, "cpu", shared)
        assert not laid.asking(sample.mask_or_ones for sample in samples).weight_BT.any()
        assert not laid.batch.counted_BT.any()


def install_on(model):
    install(model)
    return model.eval()


def test_sums_over_completions_are_the_same_where_they_share_rows():
    from raylm.rl.types import LossInputs

    samples, found = groups([3, 2], prompt=6), []
    for shared in (False, True):
        laid = lay_out(Micro(samples), 0, "cpu", shared)
        value_BT = laid.spread(np.arange(1, len(sample.logprobs) + 1) for sample in samples)
        inputs = LossInputs(value_BT, value_BT, None, value_BT, value_BT, sample_BT=laid.sample_BT)
        found.append([set(each.tolist()) for each in laid.gathered(inputs.sequence_sums(value_BT))])
    counts = [len(sample.logprobs) for sample in samples]
    assert found[0] == found[1] == [{count * (count + 1) / 2} for count in counts]


def test_packed_samples_are_the_same_samples():
    given = Sample(3, [1, 2, 5, 6], 2, [-0.1, -0.25], 1.0, [0.5, 0.5], mask=[1, 0], token_rewards=np.array([0.0, 0.5]))
    (made,) = packed(Experience([given], [3], 0)).samples
    assert made.tokens.dtype == np.int32 and made.logprobs.dtype == np.float64 and made.token_rewards is given.token_rewards
    for name, value in given._asdict().items():
        found = getattr(made, name)
        assert list(found) == list(value) if isinstance(found, np.ndarray) else found == value, name
    assert made.num_learned == given.num_learned == 1.0 and packed(Experience([made], [3], 0)).samples == [made]
