"""Balancing of routers: the loss by hand and against transformers, and the bias follows the load."""

from __future__ import annotations

import pytest
import torch
from transformers.models.qwen3_moe.modeling_qwen3_moe import load_balancing_loss_func

from raylm.core.errors import ConfigError
from raylm.model.balance import Balance, Balancer, balancer_of
from raylm.model.shapes.deepseek_v3 import DeepseekV3
from raylm.model.shapes.llama import Llama
from raylm.model.shapes.qwen3_moe import Qwen3Moe
from tests.model.shapes.built import EXPERTS, SMALL, TOKENS


class Router(torch.nn.Module):
    """Says what it is told."""

    def forward(self, logits, choices):
        return logits, None, choices


def total(values):
    return [float(value) for value in values]


def watched(balance, logits, choices, mask_BT):
    balancer, router = Balancer([router := Router()], balance), router
    balancer.begin([mask_BT], total)
    router(logits, choices)
    return balancer, balancer.term()


def test_by_hand():
    # row 1: two tokens choose experts 0 and 1 of 2, probabilities 3/4 and 1/4, then 1/4 and 3/4: even. Row 2: one token
    # chooses expert 0 at 3/4: 2 x 1 x 3/4. Its second token is padding. Mean over rows of 1 and 1.5, times the weight
    logits = torch.tensor([[3.0, 1.0], [1.0, 3.0], [3.0, 1.0], [1.0, 9.0]]).log()
    choices = torch.tensor([[0], [1], [0], [1]])
    mask = torch.tensor([[1, 1], [1, 0]])
    balancer, term = watched(Balance(auxiliary=0.1), logits, choices, mask)
    assert float(term) == pytest.approx(0.1 * (1.0 + 1.5) / 2)
    # two choices of expert 0, one of expert 1
    assert balancer.end(total) == {"max_expert_load": pytest.approx(2 / 1.5)}


def test_rows_that_only_fill_up_do_not_count():
    logits, choices = torch.randn(4, 3), torch.tensor([[0], [1], [2], [2]])
    balancer, term = watched(Balance(auxiliary=1.0), logits, choices, torch.tensor([[1, 1], [0, 0]]))
    _, alone = watched(Balance(auxiliary=1.0), logits[:2], choices[:2], torch.tensor([[1, 1]]))
    assert float(term) == pytest.approx(float(alone))
    assert balancer.end(total)["max_expert_load"] == pytest.approx(1.5)


def test_one_row_and_one_layer_is_what_transformers_computes():
    torch.manual_seed(0)
    model = Qwen3Moe(**EXPERTS | {"num_layers": 1}).build(TOKENS, 0)
    balancer = balancer_of(model, Balance(auxiliary=1.0))
    ids, mask = torch.randint(3, 70, (1, 12)), torch.tensor([[1] * 9 + [0] * 3])
    balancer.begin([mask], total)
    logits = model(input_ids=ids, output_router_logits=True, use_cache=False).router_logits
    term = balancer.term()
    # theirs does not divide by the number of choices
    assert float(term.detach()) == pytest.approx(float(load_balancing_loss_func(logits, 8, 2, mask).detach()) / 2, rel=1e-5)
    term.backward()
    assert float(model.model.layers[0].mlp.gate.weight.grad.abs().sum()) > 0
    assert model.model.layers[0].mlp.experts.down_proj.grad is None


def test_sigmoid_scores_are_made_shares():
    model = DeepseekV3(**EXPERTS | {"num_layers": 1, "first_dense_layers": 0}).build(TOKENS, 0)
    balancer = balancer_of(model, Balance(auxiliary=1.0))
    ids = torch.randint(3, 70, (2, 7))
    seen = {}
    model.model.layers[0].mlp.gate.register_forward_hook(lambda module, args, made: seen.update(made=made))
    balancer.begin([torch.ones(2, 7)], total)
    model(input_ids=ids, use_cache=False)
    scores, choices = seen["made"][0].sigmoid(), seen["made"][2]
    share = scores / scores.sum(-1, keepdim=True)
    rows = []
    for row in (slice(0, 7), slice(7, 14)):
        load = choices[row].flatten().bincount(minlength=8)
        rows.append(float((8 / (2 * 7) * load * share[row].mean(0)).sum()))
    assert float(balancer.term()) == pytest.approx(sum(rows) / 2, rel=1e-5)


def test_the_bias_falls_where_load_is_above_the_mean():
    model = DeepseekV3(**EXPERTS).build(TOKENS, 0)
    balancer = balancer_of(model, Balance(bias_rate=0.01))
    counted = []
    routers = [layer.mlp.gate for layer in model.model.layers[1:]]
    for router in routers:
        router.register_forward_hook(lambda module, args, made: counted.append(made[2].flatten().bincount(minlength=8)))
    balancer.begin([torch.ones(2, 9)], total)
    model(input_ids=torch.randint(3, 70, (2, 9)), use_cache=False)
    balancer.term()
    busy = balancer.end(total)
    balancer.shift()
    for router, load in zip(routers, counted, strict=True):
        torch.testing.assert_close(router.e_score_correction_bias, 0.01 * (2 * 18 / 8 - load.float()).sign())
    assert busy["max_expert_load"] == pytest.approx(max(float(load.max()) for load in counted) / (2 * 18 / 8))


class Biased(torch.nn.Module):
    """Sends each token to the two experts of highest score; the first experts score higher."""

    def __init__(self):
        super().__init__()
        self.logits = torch.randn(160, 8, generator=torch.Generator().manual_seed(1)) - torch.arange(8) / 8
        self.e_score_correction_bias = torch.nn.Buffer(torch.zeros(8))

    def forward(self):
        return self.logits, None, (self.logits.sigmoid() + self.e_score_correction_bias).topk(2).indices


def test_loads_become_even():
    balancer, found = Balancer([router := Biased()], Balance(bias_rate=0.01)), []
    for _ in range(40):
        balancer.begin([torch.ones(8, 20)], total)
        router()
        balancer.term()
        found.append(balancer.end(total)["max_expert_load"])
        balancer.shift()
    assert found[0] > 1.4
    assert max(found[-5:]) < 1.15


def test_a_recomputed_forward_is_seen_once():
    model = Qwen3Moe(**EXPERTS).build(TOKENS, 0).train()
    ids, mask = torch.randint(3, 70, (2, 7)), torch.ones(2, 7)
    loads, gradients = [], []
    for recompute in (False, True):
        if recompute:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        balancer = balancer_of(model, Balance(auxiliary=0.1))
        balancer.begin([mask], total)
        out = model(input_ids=ids, use_cache=False).logits.sum()
        (out + balancer.term()).backward()
        loads.append(balancer.end(total))
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})
        model.zero_grad()
    assert loads[0] == loads[1]
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


def test_outside_of_a_step_nothing_is_added():
    model = Qwen3Moe(**EXPERTS).build(TOKENS, 0)
    balancer = balancer_of(model, None)
    model(input_ids=torch.randint(3, 70, (2, 7)), use_cache=False)
    assert balancer.term() is None


def test_what_routers_do_not_have_is_refused():
    assert balancer_of(Llama(**SMALL).build(TOKENS, 0), None) is None
    with pytest.raises(ConfigError, match="it has no experts"):
        balancer_of(Llama(**SMALL).build(TOKENS, 0), Balance(auxiliary=0.1))
    with pytest.raises(ConfigError, match="needs routers with a bias"):
        balancer_of(Qwen3Moe(**EXPERTS).build(TOKENS, 0), Balance(bias_rate=0.1))
