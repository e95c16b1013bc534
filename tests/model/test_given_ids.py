"""Log-probabilities of given tokens and of the rest: scores and gradients are those of all logits in float64."""

from __future__ import annotations

import pytest
import torch

from raylm.core.errors import ConfigError
from raylm.model import cross_entropy
from raylm.model.head import Asks
from raylm.model.scores import ask
from tests.model.test_head import asked, changing
from tests.model.tiny import tiny_model


def ids(inputs, count, vocab=70):
    """`count` different tokens at each position, the target among them in half of the rows."""
    draw = torch.Generator().manual_seed(9)
    found = torch.rand(*inputs.target_BT.shape, vocab, generator=draw)
    found[::2].scatter_(2, inputs.target_BT[::2, :, None], 2.0)
    return found.topk(count)[1]


def expected(model, inputs, hard, soft):
    logits_BTV = model(**inputs.feed).logits.double()
    logprob_BTV = (logits_BTV / soft).log_softmax(-1)
    rest_BTV = logprob_BTV.scatter(2, inputs.id_BTK, -torch.inf)
    of_target = (logits_BTV / hard).log_softmax(-1).gather(-1, inputs.target_BT[..., None])[..., 0]
    return of_target, (logits_BTV / hard).logsumexp(-1), logprob_BTV.gather(-1, inputs.id_BTK), rest_BTV.logsumexp(-1)


@pytest.mark.parametrize("size", [5, 1024])
@pytest.mark.parametrize(("hard", "soft"), [(1.0, 1.0), (0.8, 0.8), (1.0, 2.0)])
@pytest.mark.parametrize("kind", ["tied", "gemma2", "granite"])
def test_scores_and_gradients_are_those_of_all_logits(kind, hard, soft, size, monkeypatch):
    """In several chunks, and in one; tied, and with logits that are capped or scaled."""
    monkeypatch.setattr(cross_entropy, "chunk_tokens", lambda *_: size)
    ours, theirs = (tiny_model(vocab=70, hidden=32, layers=1) if kind == "tied" else changing(kind) for _ in range(2))
    inputs = asked()
    inputs = inputs._replace(id_BTK=ids(inputs, 6))
    counts = inputs.weight_BT > 0
    found = ask(ours, inputs, Asks(at_ids=6, temperature=hard, at_temperature=soft))
    right = expected(theirs, inputs, hard, soft)
    draw = torch.Generator().manual_seed(3)
    totals = []
    pairs = (found.logprob_BT, found.lse_BT, found.at_logprob_BTK, found.rest_logprob_BT)
    for mine, other in zip(pairs, right, strict=True):
        assert mine.dtype == torch.float32 and not mine[~counts].any()
        torch.testing.assert_close(mine[counts].double(), other[counts], atol=1e-5, rtol=1e-5)
        upstream = torch.randn(other.shape, generator=draw)
        totals.append([(each * upstream)[counts].sum() for each in (mine, other)])
    for total in zip(*totals, strict=True):
        sum(total).backward()
    for (name, left), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(left.grad, other.grad, atol=2e-5, rtol=1e-4, msg=name)


def test_of_the_whole_vocabulary_nothing_is_left():
    model, inputs = tiny_model(vocab=70, hidden=32, layers=1), asked()
    inputs = inputs._replace(id_BTK=torch.arange(70).expand(3, 9, 70).contiguous())
    scores = ask(model, inputs, Asks(at_ids=70))
    counts = inputs.weight_BT > 0
    right = model(**inputs.feed).logits.log_softmax(-1)
    torch.testing.assert_close(scores.at_logprob_BTK[counts], right[counts], atol=1e-5, rtol=1e-5)
    assert scores.rest_logprob_BT[counts].isneginf().all()
    scores.at_logprob_BTK[..., 3].sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_a_small_rest_keeps_its_digits():
    """A rest of 2e-13 is 0 where it is taken as one minus the others in float32; here it is right, and so is its gradient."""
    from raylm.model.given_ids import given

    hidden = torch.eye(4)[:1].requires_grad_()
    logits = torch.tensor([20.0, 19.0, -9.5, -10.0])
    weight, options = torch.nn.Parameter(torch.diag(torch.zeros(4)) + torch.cat([logits[:, None], torch.zeros(4, 3)], 1)), None
    options = cross_entropy.LossOptions(1.0)
    made = given(hidden, weight, None, torch.tensor([0]), torch.tensor([[0, 1]]), options, 1.0)
    exact = logits.double().log_softmax(0)
    assert float(made[0, 2].detach()) == pytest.approx(float(exact[2:].logsumexp(0)), rel=1e-6)
    made[0, 2].backward()
    share = exact.exp()
    right = torch.tensor([0.0, 0.0, 1.0, 1.0]) * share / share[2:].sum() - share
    torch.testing.assert_close(weight.grad[:, 0].double(), right, atol=1e-12, rtol=1e-5)


def test_ids_that_do_not_fit_are_refused():
    model, inputs = tiny_model(vocab=70, hidden=32, layers=1), asked()
    with pytest.raises(ConfigError, match="none came"):
        ask(model, inputs, Asks(at_ids=3))
    with pytest.raises(ConfigError, match=r"3 given tokens .* \(3, 9, 2\) came"):
        ask(model, inputs._replace(id_BTK=ids(inputs, 2)), Asks(at_ids=3))
    with pytest.raises(ConfigError, match="not for both"):
        ask(model, inputs._replace(id_BTK=ids(inputs, 2)), Asks(at_ids=2, top_k=2))
