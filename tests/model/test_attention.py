"""Each backend of attention that runs here against attention written out, and packed models against rows alone."""

from __future__ import annotations

import gc
import weakref
from itertools import pairwise

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, BertConfig, BertForMaskedLM

from raylm.core.errors import ConfigError
from raylm.model.attention import Boundaries, attend, install, installed, refused, refused_documents
from raylm.model.attention_backends import _DERIVED, Call, derived_block_mask, run, sdpa
from raylm.model.attention_backends import refused as backend_refused
from raylm.model.attention_layout import layout, positions, seen
from tests.model.attention_cases import CASES, check, documents, draws, prefixes

SMALL = {"vocab_size": 40, "hidden_size": 32, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("backend", ["auto", "segments", "sdpa"])
def test_a_rung_is_attention_written_out(backend, case):
    check(backend, "cpu", torch.float64, 1e-9, case)
    check(backend, "cpu", torch.float32, 1e-5, case)


@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("backend", ["auto", "varlen", "flex", "sdpa"])
def test_a_rung_is_attention_written_out_on_a_gpu(backend, case):
    if backend != "varlen" and not (backend == "flex" and case == "latent"):
        check(backend, "cuda", torch.float32, 1e-2, case)
    if case != "latent":
        check(backend, "cuda", torch.bfloat16, 5e-2, case)


def test_lengths_and_masks():
    assert [[(span.count, span.padding) for span in row] for row in layout(documents())] == [
        [(5, False), (1, False), (9, False), (8, False)],
        [(16, False), (3, False), (2, False), (2, True)],
    ]
    mask = seen(torch.tensor([[0, 0, 1, -1]]), None, 4, torch.device("cpu"))[0, 0].int().tolist()
    assert mask == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    assert seen(None, 2, 3, torch.device("cpu"))[0, 0].int().tolist() == [[1, 0, 0], [1, 1, 0], [0, 1, 1]]


def test_rungs_that_cannot_run_say_why():
    query = torch.zeros(1, 2, 4, 8)
    call = Call(1.0, torch.zeros(1, 4, dtype=torch.long))
    with pytest.raises(ConfigError, match=r"varlen.*for CUDA, this is cpu"):
        run(query, query, query, call, "varlen")
    with pytest.raises(ConfigError, match=r"flex.*CUDA only"):
        run(query, query, query, call, "flex")
    assert backend_refused("segments", query, call) is None and backend_refused("sdpa", query, call) is None
    assert "wait for each" in str(backend_refused("segments", query.to("meta"), call))


def test_autocast_computes_in_its_dtype():
    query, key, value, _ = draws(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out, _ = attend(None, query, key, value, None, boundaries=Boundaries(documents()))
    assert out.dtype == torch.bfloat16


def test_what_is_not_computed_is_refused():
    query, key, value, _ = draws(torch.float32)
    for strange in ({"softcap": 30.0}, {"s_aux": query}):
        with pytest.raises(ConfigError, match=next(iter(strange))):
            attend(None, query, key, value, None, **strange)
    with pytest.raises(ConfigError, match="a mask of its own"):
        attend(None, query, key, value, torch.ones(1))


def model_of(kind, **fields):
    torch.manual_seed(0)
    shape = AutoConfig.for_model(kind, **{**SMALL, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0, **fields})
    return AutoModelForCausalLM.from_config(shape).eval()


MLA = dict(
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank", "qk_nope_head_dim"), 8),
    **dict.fromkeys(("head_dim", "qk_rope_head_dim", "num_key_value_heads"), 4),
    v_head_dim=6,
    first_k_dense_replace=2,
)
MODELS = {
    "llama": {},
    "qwen3": {},
    "mistral": {"sliding_window": 4},
    "gemma3_text": {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]},
    "gpt2": {"n_embd": 32, "n_head": 4, "n_layer": 2},
    "deepseek_v3": MLA,
}


@pytest.mark.parametrize("kind", MODELS)
def test_a_model_attends_as_transformers_does(kind):
    """Whole rows as with transformers' own sdpa; packed rows with documents as the rows alone, forward and gradient."""
    model = model_of(kind, **MODELS[kind])
    rows = [torch.randint(3, 40, (1, length), generator=torch.Generator().manual_seed(length)) for length in (7, 4, 11)]
    assert model.config._attn_implementation == "sdpa"
    expected = torch.cat([model(input_ids=row, use_cache=False).logits for row in rows], 1)
    expected.square().sum().backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    install(model)
    assert installed(model) and refused(model) is None and refused_documents(model) is None
    torch.testing.assert_close(
        torch.cat([model(input_ids=row, use_cache=False).logits for row in rows], 1), expected, atol=1e-5, rtol=1e-4
    )
    position_BT = torch.cat([torch.arange(row.shape[1]) for row in rows])[None]
    document_BT = torch.repeat_interleave(torch.arange(3), torch.tensor([row.shape[1] for row in rows]))[None]
    found = model(input_ids=torch.cat(rows, 1), position_ids=position_BT, boundaries=Boundaries(document_BT), use_cache=False)
    torch.testing.assert_close(found.logits, expected, atol=1e-5, rtol=1e-4)
    found.logits.square().sum().backward()
    for name, p in model.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(p.grad, grads[name], atol=1e-4, rtol=1e-4, msg=name)


def test_a_compiled_block_takes_documents_of_any_lengths():
    """Also where its forward pass is computed again for the backward pass."""
    found = []
    for compiled in (False, True):
        model = model_of("llama").train()
        install(model)
        model.gradient_checkpointing_enable({"use_reentrant": False})
        for block in model.model.layers if compiled else ():
            block.compile(backend="aot_eager")
        losses = []
        for first in (3, 5, 1):
            document_BT = torch.repeat_interleave(torch.arange(2), torch.tensor([first, 8 - first]))[None]
            tokens_BT = torch.arange(3, 11)[None]
            logits = model(input_ids=tokens_BT, boundaries=Boundaries(document_BT), use_cache=False).logits
            logits.square().sum().backward()
            losses.append(float(logits.detach().square().sum()))
        found.append([*losses, *(float(p.grad.norm()) for p in model.parameters())])
    assert found[1] == pytest.approx(found[0], rel=1e-5)


def test_models_that_cannot_are_left_as_they_are():
    bert = BertForMaskedLM(
        BertConfig(vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    )
    install(bert)
    assert not installed(bert) and refused(bert) == "it attends in both directions"
    with pytest.raises(ConfigError, match=r"sdpa.*both directions"):
        install(bert, "sdpa")
    gemma = model_of("gemma2", sliding_window=4)
    assert refused(gemma) == "it caps attention scores"
    assert (
        refused(model_of("qwen2_moe", use_sliding_window=True, sliding_window=4, num_experts=2)) == "its sliding window is a mask"
    )


def test_a_backend_requested_by_name_is_the_one_that_runs():
    model = model_of("llama")
    install(model, "sdpa")
    assert model.config._attn_implementation == "raylm_sdpa" and installed(model)
    install(model, "flex")
    with pytest.raises(ConfigError, match="flex"):
        model(input_ids=torch.ones(1, 4, dtype=torch.long))


@pytest.mark.parametrize("backend", ["blocks", "mask"])
def test_what_is_derived_from_documents_goes_with_them(backend):
    document_BT = torch.zeros(1, 128, dtype=torch.int64)
    gone = weakref.ref(document_BT)
    if backend == "mask":
        query = torch.zeros(1, 1, 128, 8)
        sdpa(query, query, query, Call(1.0, document_BT))
    else:
        # on CPUs flex_attention itself does not run
        derived_block_mask(Call(1.0, document_BT), 128, torch.device("cpu"))
    assert _DERIVED[document_BT]
    del document_BT
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("case", ["prefixes", "one_kv_head"])
def test_documents_on_long_prefixes_make_no_mask_and_are_attention_written_out(case, monkeypatch):
    from raylm.model import attention_backends

    monkeypatch.setattr(attention_backends, "LARGE", 1)
    monkeypatch.setitem(CASES, "one_kv_head", {**CASES["one_kv_head"], "prefixes": True})
    monkeypatch.setattr(attention_backends, "_segment_mask", lambda call, span, query: None if span.before == 0 else 1 / 0)
    check("segments", "cpu", torch.float64, 1e-9, case)
    check("segments", "cpu", torch.float32, 1e-5, case)
    check("segments", "cpu", torch.bfloat16, 5e-2, case)


def test_lengths_for_flash_kernels_and_blocks_for_flex_say_what_a_mask_says():
    """These kernels run on GPUs alone: their keys and lengths are read back here as the kernels read them."""
    from raylm.model.attention_backends import _lengths, block_mask

    document_BT, prefix_BT = documents(), prefixes()
    for window in (None, 4):
        spans = layout(document_BT, prefix_BT)
        expected = seen(document_BT, window, 23, torch.device("cpu"), prefix_BT, positions(spans))[:, 0]
        of = _lengths(spans, 23, torch.device("cpu"))
        found = torch.zeros(46, 46, dtype=torch.bool)
        for (q, q_end), (k, k_end) in zip(pairwise(of.queries.tolist()), pairwise(of.seen.tolist()), strict=True):
            # the last query meets the last key: aligned to the lower right
            for at in range(q, q_end):
                last = k_end - (q_end - 1 - at)
                found[at, of.keys[k if window is None else max(k, last - window) : last]] = True
        assert found[:23, :23].tolist() == expected[0].tolist() and found[23:, 23:].tolist() == expected[1].tolist()
        made = block_mask(Call(1.0, document_BT, window, prefix_BT=prefix_BT), 23, torch.device("cpu"))
        of_flex = [
            [[bool(made.mask_mod(b, 0, torch.tensor(q), torch.tensor(k))) for k in range(23)] for q in range(23)] for b in (0, 1)
        ]
        assert of_flex == expected.tolist()
