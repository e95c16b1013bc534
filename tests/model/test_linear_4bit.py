"""Linear layers in 4 bits: bit for bit what bitsandbytes rounds a matrix to, and gradients of the matrix that they stand for."""

from __future__ import annotations

import pytest
import torch

from raylm.model.linear_4bit import Linear4bit, Quantization, layers_of, quantize_layers

# blocks of 64 numbers that end with rows, and such that reach over them (a Llama of 688 hidden neurons; bitsandbytes takes wrong
# scales there on some CPUs)
SHAPES = [(96, 64), (7, 128), (96, 32), (16, 688), (10, 34), (3, 6)]


def by_definition(codes, state, shape):
    """Levels times scales, in torch alone; of scales in 8 bits by bitsandbytes, which rounds these too."""
    from bitsandbytes.functional import dequantize_blockwise

    scales = dequantize_blockwise(state.absmax, state.state2) + state.offset if state.nested else state.absmax
    pairs_N2 = torch.stack([codes.view(-1) >> 4, codes.view(-1) & 15], 1).long()
    size = shape[0] * shape[1]
    return (state.code[pairs_N2.view(-1)[:size]] * scales.repeat_interleave(64)[:size]).view(shape)


@pytest.mark.parametrize("how", [Quantization(), Quantization("nf4", False), Quantization("fp4"), Quantization("fp4", False)])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_bytes_stand_for_what_bitsandbytes_dequantizes(how, stored):
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    torch.manual_seed(0)
    for shape in SHAPES:
        matrix_OI = torch.randn(shape).to(stored)
        codes, state = quantize_4bit(matrix_OI, quant_type=how.quant_type, compress_statistics=how.double_quant)
        bytes_N = how.pack(matrix_OI)
        assert bytes_N.dtype == torch.uint8 and len(bytes_N) == how.num_bytes(matrix_OI.numel())
        # of gathered bytes the first may lie anywhere
        moved_N = torch.cat([torch.zeros(3, dtype=torch.uint8), bytes_N])[3:]
        for dtype in (torch.float32, torch.bfloat16):
            state.dtype = dtype
            meant = by_definition(codes, state, shape).to(dtype)
            assert how.unpack(bytes_N, shape, dtype).equal(meant) and how.unpack(moved_N, shape, dtype).equal(meant)
            if shape[1] % 64 == 0:
                assert dequantize_4bit(codes, state).equal(meant)


def test_a_block_by_hand():
    """NF4 stores each number as the nearest of 16 levels times the largest of its block; without double quantization exactly."""
    matrix_OI = torch.zeros(1, 64)
    matrix_OI[0, :4] = torch.tensor([-8.0, 8.0, 3.5, 0.1])
    back = Quantization("nf4", False).unpack(Quantization("nf4", False).pack(matrix_OI), (1, 64), torch.float32)
    # levels of the QLoRA paper, appendix E
    assert back[0, :5].tolist() == pytest.approx([-8.0, 8.0, 8 * 0.44070982933044434, 0.0, 0.0])
    assert Quantization().num_bytes(4096 * 4096) / 4096**2 == pytest.approx(0.5 + (1 + 4 / 256) / 64, rel=1e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_it_multiplies_with_what_its_bytes_stand_for(bias):
    torch.manual_seed(1)
    plain = torch.nn.Linear(64, 48, bias=bias)
    model = torch.nn.Sequential(plain)
    quantize_layers(model, ["0"], Quantization())
    layer = model[0]
    assert isinstance(layer, Linear4bit) and layers_of(model) == {"0.weight": layer}
    assert not any(p.requires_grad for p in layer.parameters())
    same = torch.nn.Linear(64, 48, bias=bias)
    same.weight.data.copy_(layer.matrix())
    if bias:
        same.bias.data.copy_(plain.bias)
    ours, theirs = (torch.randn(5, 64, generator=torch.Generator().manual_seed(2)).requires_grad_() for _ in range(2))
    made, expected = layer(ours), same(theirs)
    assert made.equal(expected)
    slope = torch.randn(5, 48)
    made.backward(slope)
    expected.backward(slope)
    assert ours.grad.equal(theirs.grad)


def test_autocast_multiplies_in_its_dtype():
    model = torch.nn.Sequential(torch.nn.Linear(64, 48, bias=False))
    quantize_layers(model, ["0"], Quantization())
    with torch.autocast("cpu", torch.bfloat16):
        made = model(torch.randn(3, 64))
    assert made.dtype == torch.bfloat16


def test_who_casts_to_the_dtype_of_the_weight_is_told():
    model = torch.nn.Sequential(torch.nn.Linear(64, 48, bias=False))
    quantize_layers(model, ["0"], Quantization())
    with pytest.raises(TypeError, match=r"was fed torch\.uint8"):
        model(torch.randn(3, 64).to(model[0].weight.dtype))
