"""Entropy beside log-probabilities: values and gradients are those of all logits in float64, on one rank and over three."""

from __future__ import annotations

import pytest
import torch

from raylm.core.errors import ConfigError
from raylm.model import cross_entropy, vocab_parallel
from raylm.model.entropy import entropy, parallel_entropy
from raylm.model.head import Asks
from raylm.model.scores import ask
from raylm.model.vocab_parallel import Part
from tests.model.test_head import asked, changing
from tests.model.tiny import tiny_model
from tests.parallel.on_ranks import on_ranks


def expected(logits, target, temperature):
    """(log-probability, log-sum-exp, entropy)."""
    wide = logits.double() / temperature
    logprob = wide.log_softmax(-1)
    return logprob.gather(-1, target[..., None])[..., 0], wide.logsumexp(-1), -(logprob.exp() * logprob).sum(-1)


@pytest.mark.parametrize(("size", "temperature"), [(5, 0.7), (1024, 1.0)])
@pytest.mark.parametrize("kind", ["tied", "gemma2", "granite"])
def test_entropy_and_gradients_are_those_of_all_logits(kind, size, temperature, monkeypatch):
    monkeypatch.setattr(cross_entropy, "chunk_tokens", lambda *_: size)
    ours, theirs = (tiny_model(vocab=70, hidden=32, layers=1) if kind == "tied" else changing(kind) for _ in range(2))
    inputs = asked()
    counts = inputs.weight_BT > 0
    found = ask(ours, inputs, Asks(entropy=True, temperature=temperature))
    right = expected(theirs(**inputs.feed).logits, inputs.target_BT, temperature)
    draw, totals = torch.Generator().manual_seed(3), []
    for mine, other in zip((found.logprob_BT, found.lse_BT, found.entropy_BT), right, strict=True):
        assert mine.dtype == torch.float32 and not mine[~counts].any()
        torch.testing.assert_close(mine[counts].double(), other[counts], atol=1e-5, rtol=1e-5)
        upstream = torch.randn(other.shape, generator=draw)
        totals.append([(each * upstream)[counts].sum() for each in (mine, other)])
    for total in zip(*totals, strict=True):
        sum(total).backward()
    for (name, left), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(left.grad, other.grad, atol=2e-5, rtol=1e-4, msg=name)


def test_entropy_and_the_likeliest_are_not_asked_for_together():
    with pytest.raises(ConfigError, match="entropy"):
        ask(tiny_model(vocab=70, hidden=32, layers=1), asked(), Asks(entropy=True, top_k=2))


def test_words_that_cannot_be_drawn_have_no_share():
    draw = torch.Generator().manual_seed(0)
    hidden, weight, bias = torch.randn(4, 8, generator=draw), torch.randn(10, 8, generator=draw), torch.zeros(10)
    bias[7:] = -torch.inf
    target = torch.tensor([0, 1, 2, 3])
    hidden.requires_grad_()
    found = entropy(hidden, weight, bias, target, cross_entropy.LossOptions(1.0))
    right = expected(hidden.detach() @ weight[:7].T, target, 1.0)
    torch.testing.assert_close(found.detach().double(), torch.stack(right, -1), atol=1e-5, rtol=1e-5)
    found.sum().backward()
    assert bool(hidden.grad.isfinite().all())


def case():
    draw = torch.Generator().manual_seed(1)
    return {
        "hidden": torch.randn(7, 8, generator=draw),
        "weight": torch.randn(12, 8, generator=draw),
        "target": torch.randint(0, 12, (7,), generator=draw),
        "upstream": torch.randn(7, 3, generator=draw),
    }


def of_part(rank, world):
    vocab_parallel.CHUNK_LOGITS = 12
    given, size = case(), 12 // world
    hidden = given["hidden"].requires_grad_()
    weight = given["weight"][rank * size : (rank + 1) * size].clone().requires_grad_()
    part = Part(torch.distributed.group.WORLD, rank * size)
    made = parallel_entropy(hidden, weight, None, given["target"], 0.7, part)
    made.backward(given["upstream"])
    return made.detach(), hidden.grad, weight.grad


def test_over_ranks_it_is_that_of_the_whole_vocabulary():
    given = {name: t.double() if t.is_floating_point() else t for name, t in case().items()}
    hidden, weight = given["hidden"].requires_grad_(), given["weight"].requires_grad_()
    right = torch.stack(expected(hidden @ weight.T, given["target"], 0.7), -1)
    right.backward(given["upstream"])
    found = on_ranks(3, of_part)
    for made, hidden_grad, _ in found:
        assert torch.allclose(made.double(), right, atol=1e-5) and torch.allclose(hidden_grad.double(), hidden.grad, atol=1e-5)
    assert torch.allclose(torch.cat([each[2] for each in found]).double(), weight.grad, atol=1e-5)
