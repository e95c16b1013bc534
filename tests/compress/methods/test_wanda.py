"""Wanda: zeros at the lowest |weight| times input norm of each output, through blocks that are pruned already."""

from __future__ import annotations

import copy

import pytest
import torch

from raylm.compress.methods.wanda import Wanda, wanda
from raylm.compress.pruning.masks import Sparsity
from raylm.core.errors import ConfigError, DataError
from tests.compress.pruned import calibration, family


def by_the_formula(weight_OI, x_NI, share=0.5, pattern=None):
    """The paper's S = |W| * |X|_2, output by output in plain Python: those of the lowest S in each group go."""
    norms = [float(x_NI[:, i].square().sum().sqrt()) for i in range(x_NI.shape[1])]
    rows = []
    for row in weight_OI.tolist():
        size, gone = (pattern[1], pattern[1] - pattern[0]) if pattern else (len(row), int(len(row) * share))
        for start in range(0, len(row), size):
            order = sorted(range(start, start + size), key=lambda i: abs(row[i]) * norms[i])
            for i in order[:gone]:
                row[i] = 0.0
        rows.append(row)
    return torch.tensor(rows)


def test_by_hand():
    weight = torch.tensor([[1.0, -2.0, 3.0, -4.0], [4.0, 3.0, 2.0, 1.0]])
    # scores: 5 2 3 4 and 20 3 2 1
    pruned = wanda(weight, torch.tensor([5.0, 1.0, 1.0, 1.0]), Sparsity(0.5))
    assert pruned.tolist() == [[1.0, 0.0, 0.0, -4.0], [4.0, 3.0, 0.0, 0.0]]


def test_two_of_four_by_hand():
    weight = torch.tensor([[1.0, 2.0, 3.0, 4.0, -8.0, -7.0, -6.0, -5.0]])
    # scores: 9 2 3 4 | 8 7 6 50
    pruned = wanda(weight, torch.tensor([9.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 10.0]), Sparsity.read(0.5, "2:4"))
    assert pruned.tolist() == [[1.0, 0.0, 0.0, 4.0, -8.0, 0.0, 0.0, -5.0]]


@pytest.mark.parametrize(
    ("share", "pattern"), [(0.5, None), (0.3, None), (0.9, None), (0.5, (2, 4)), (0.5, (4, 8)), (0.75, (1, 4))]
)
def test_as_the_papers_formula(share, pattern):
    torch.manual_seed(3)
    weight, x = torch.randn(12, 40), torch.randn(70, 40) * torch.linspace(0.2, 3, 40)
    sparsity = Sparsity.read(share, pattern and f"{pattern[0]}:{pattern[1]}")
    assert torch.equal(wanda(weight, x.norm(dim=0), sparsity), by_the_formula(weight, x, share, pattern))


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_zeros_are_counted_layer_by_layer_and_the_rest_is_as_it_was(name):
    model = family(name)
    before = copy.deepcopy(model.state_dict())
    applied = Wanda().apply(model, calibration())
    assert applied.model is None and applied.compressor is None
    after, zeros = model.state_dict(), applied.facts["zeros"]
    assert len(zeros) == 4 * (7 if name == "llama" else 4)
    for key, weight in after.items():
        layer = key.removesuffix(".weight")
        if layer in zeros and key.endswith(".weight"):
            assert int((weight == 0).sum()) == zeros[layer] == weight.numel() // 2
            # half of each output, wherever the layer keeps it
            by_output = (weight == 0).sum(0 if name == "gpt2" else 1)
            assert set(by_output.tolist()) == {(weight.shape[0] if name == "gpt2" else weight.shape[1]) // 2}
            assert torch.equal(weight[weight != 0], before[key][weight != 0])
        else:
            assert torch.equal(weight, before[key])
    assert applied.metrics["zeros"] == sum(zeros.values())
    assert applied.metrics["pruned_zero_share"] == 0.5
    assert applied.metrics["zero_share"] == pytest.approx(
        sum(zeros.values()) / sum(p.numel() for p in model.parameters()), abs=1e-6
    )
    assert "nothing gets faster" in applied.facts["speed"]


def test_what_enters_a_block_comes_through_pruned_ones():
    model, whole = family("llama"), family("llama")
    rows = calibration()
    Wanda(share=0.8).apply(model, rows)
    entered = []
    layer = model.model.layers[3].self_attn.q_proj
    hook = layer.register_forward_pre_hook(lambda _, args: entered.append(args[0].detach().reshape(-1, 32)))
    with torch.no_grad():
        for row in rows.rows:
            model(torch.tensor([row]))
    hook.remove()
    assert torch.equal(layer.weight, by_the_formula(whole.model.layers[3].self_attn.q_proj.weight, torch.cat(entered), 0.8))


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match='as "2:4"'):
        Wanda(pattern="4:2")
    with pytest.raises(ValueError, match="either `share` or `pattern`"):
        Wanda(pattern="2:4", share=0.5)
    with pytest.raises(ConfigError, match="no multiple of 5"):
        Wanda(pattern="2:5").apply(family("llama"), calibration())
    with pytest.raises(ConfigError, match=r"experts\.gate_up_proj"):
        Wanda().apply(family("mixtral"), calibration())
    broken = family("llama")
    broken.model.layers[1].mlp.up_proj.weight.data[0, 0] = float("nan")
    with pytest.raises(DataError, match=r"layers.1.mlp.up_proj, or what enters it, are not all finite"):
        Wanda().apply(broken, calibration())
