"""Pruning through the stage: what is written loads, says what it is, and goes on into other stages."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from raylm.compress.config import Compress
from raylm.compress.pruning.rebuilt import check_same
from raylm.compress.stage import compress
from raylm.core.artifact import Tokens
from raylm.core.errors import ArtifactError, ConfigError
from raylm.inference.completions import Sampling
from raylm.inference.config import GeneratorSpec
from raylm.inference.pool import hold_pool
from raylm.model.load import load_model, load_tokenizer
from tests.model.tiny import tiny_checkpoint
from tests.rows import counting_rows, make_rows

SMALLER = {
    "width": {"kind": "width", "ffn": 96, "heads": 1, "hidden": 48},
    "depth": {"kind": "depth", "num_layers": 2, "importance": "loss"},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    at = tmp_path_factory.mktemp("job")
    make_rows(at, "tokens", Tokens, counting_rows(40))
    tiny_checkpoint(at / "base", vocab=300, layers=3)
    return at


def pruned(root: Path, out: str, method: dict[str, Any], model: str = "base") -> Any:
    cfg = Compress.model_validate({"stage": "compress", "model": "base", "calibration": "tokens", "method": method})
    return compress(cfg, str(root / model), str(root / "tokens"), str(root / out))


@pytest.mark.parametrize("name", SMALLER)
def test_a_smaller_model_is_plain_and_loads_with_its_tokenizer(root, name):
    written = pruned(root, name, SMALLER[name])
    model: Any = load_model(str(root / name), plain=True)
    assert written.variant == "causal" and len(load_tokenizer(str(root / name))) == 300
    assert written.metrics["num_parameters"] == sum(p.numel() for p in model.parameters())
    assert written.metrics["bytes_after"] == pytest.approx(4 * written.metrics["num_parameters"], rel=0.05)
    assert written.metrics["bytes_before"] / written.metrics["bytes_after"] > 1.2
    # held rows tell how far it is from the parent
    assert written.metrics["kl"] > 0
    config = json.loads((root / name / "config.json").read_text())
    meant = {"width": (96, 48, 1, 32, 3), "depth": (192, 64, 2, 32, 2)}[name]
    fields = ("intermediate_size", "hidden_size", "num_attention_heads", "head_dim", "num_hidden_layers")
    assert tuple(config[field] for field in fields) == meant and config["tie_word_embeddings"]
    # of a tied pair one is stored
    from safetensors import safe_open

    with safe_open(root / name / "model.safetensors", "pt") as stored:
        assert "lm_head.weight" not in stored.keys()  # noqa: SIM118


@pytest.mark.parametrize("kind", ["wanda", "sparse_gpt"])
def test_zeros_are_those_of_the_file_and_rounding_keeps_them(root, kind):
    from safetensors.torch import load_file

    written = pruned(root, kind, {"kind": kind, "pattern": "2:4"})
    stored = load_file(root / kind / "model.safetensors")
    zeros = {name.removesuffix(".weight"): int((weight == 0).sum()) for name, weight in stored.items() if "_proj" in name}
    assert written.facts["zeros"] == zeros
    assert written.metrics["zeros"] == sum(zeros.values()) == sum(stored[f"{name}.weight"].numel() for name in zeros) // 2
    for rounding in ({"kind": "int8"}, {"kind": "int4", "group_size": 32}, {"kind": "gptq", "group_size": 32}):
        at = f"{kind}-{rounding['kind']}"
        pruned(root, at, rounding, model=kind)
        again: Any = load_model(str(root / at))
        with torch.no_grad():
            again(torch.tensor([[1, 2, 3]]))
        for name in written.facts["zeros"]:
            # the first pass unpacks the weights
            weight = again.get_submodule(name).weight
            assert bool((weight[stored[f"{name}.weight"] == 0] == 0).all()), name


def test_files_that_load_as_another_model_are_refused(root, monkeypatch):
    import raylm.model.checkpoint as checkpoint

    whole = checkpoint.write_weights
    monkeypatch.setattr(
        checkpoint, "write_weights", lambda at, plain, named, **more: whole(at, plain, ((n, t * 1.5) for n, t in named), **more)
    )
    with pytest.raises(ArtifactError, match="loads what was written as another model"):
        pruned(root, "broken", SMALLER["depth"])
    assert not (root / "broken" / "config.json").exists()


@pytest.mark.vllm
@pytest.mark.ray
@pytest.mark.long
def test_vllm_draws_what_transformers_draws(root, workers):
    """Greedy tokens of a model that is narrower in all its widths, and of one with fewer layers."""
    prompts = [[1, 3, 70 + 7 * row, 90 + row, 4] for row in range(8)]
    for name, method in SMALLER.items():
        pruned(root, f"{name}-served", method)
        pool = hold_pool(workers, GeneratorSpec())
        pool.start(str(root / f"{name}-served"), max_len=64, dtype="float32")
        drawn = pool.generate(prompts, Sampling(max_tokens=8, temperature=0, stop_at_eos=False))
        workers.release("generator")
        model: Any = load_model(str(root / f"{name}-served")).eval()
        for prompt, (completion,) in zip(prompts, drawn, strict=True):
            made = model.generate(torch.tensor([prompt]), max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=0)
            assert completion.tokens == made[0, len(prompt) :].tolist()


def test_one_token_that_a_smaller_model_computes_otherwise_is_seen_beside_large_logits():
    torch.manual_seed(0)
    meant = torch.randn(8, 50)
    meant[0] *= 1e4
    model = SimpleNamespace(config=SimpleNamespace(model_type="llama"), dtype=torch.float32)
    check_same(meant, meant * (1 + 1e-6), model, "layers")
    made = meant.clone()
    made[3] += 0.1 * torch.randn(50)
    with pytest.raises(ConfigError, match="computes with its layers in a way that is not known"):
        check_same(meant, made, model, "layers")
