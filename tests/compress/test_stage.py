"""The compress stage: fewer bytes, loadable in transformers and in vLLM, lineage kept."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from raylm.compress.config import Compress
from raylm.compress.stage import run
from raylm.core.artifact import Checkpoint, Tokens
from raylm.core.errors import ConfigError
from raylm.inference.completions import Sampling
from raylm.inference.config import GeneratorSpec
from raylm.inference.engine_dtype import formats, this_machine
from raylm.inference.pool import hold_pool
from tests.model.tiny import tiny_checkpoint
from tests.rows import counting_rows, make_rows
from tests.stages import context

pytestmark = pytest.mark.ray
# weights in half of the range: what engines on every CPU compute exactly
METHODS = {"int8": {"kind": "int8", "reduce_range": True}, "int4": {"kind": "int4", "group_size": 32}}
# the others' files are of the same schemes, or of two in one
OTHERS = {
    "gptq": {"kind": "gptq", "group_size": 32},
    "awq": {"kind": "awq", "group_size": 32},
    "qad": {"kind": "qad", "group_size": 32, "steps": 4, "batch_tokens": 192},
    "auto_round": {"kind": "auto_round", "group_size": 32, "steps": 2, "batch_size": 4},
    "smooth_quant": {"kind": "smooth_quant", "reduce_range": True},
    "fp8": {"kind": "fp8"},
    "mixed": {"kind": "mixed", "group_size": 32, "max_kl": 0.0008},
}
PROMPTS = [[1, 3, 70 + 7 * row, 90 + row, 4] for row in range(16)]


def config(**table) -> Compress:
    return Compress(**{"stage": "compress", "model": "base", "calibration": "tokens"} | table)


@pytest.fixture(scope="module")
def root(tmp_path_factory, workers):
    at = tmp_path_factory.mktemp("job")
    make_rows(at, "tokens", Tokens, counting_rows(40))
    base = context(at, "base")
    tiny_checkpoint(base.out.uri, vocab=300, layers=1)
    base.commit(Checkpoint, facts={"vocab_size": 300, "eos_token_id": 2})
    for name, method in METHODS.items():
        cfg = config(method=method)
        run(cfg, context(at, name, cfg, workers))
    return at


@pytest.mark.parametrize(("name", "ratio"), [("int8", 1.5), ("int4", 1.5)])
def test_the_checkpoint_is_smaller_and_says_what_it_is(root, name, ratio):
    made = context(root, "reader").open(name)
    shards = [entry.bytes for entry in made.manifest.files if entry.path.endswith(".safetensors")]
    assert made.metrics["bytes_after"] == sum(shards)
    assert made.metrics["size_ratio"] > ratio
    facts = dict(made.facts)
    assert facts.pop("rounded_share") == made.metrics["rounded_share"] == pytest.approx(1 - sum(facts["left"].values()), abs=0.01)
    assert list(facts.pop("left")) == ["model.embed_tokens.weight"]
    assert (facts.pop("dtype_before"), facts.pop("dtype")) == ("float32", "float32" if name == "int8" else "bfloat16")
    assert facts == {"vocab_size": 300, "eos_token_id": 2, "base_model": "base", "method": name, "quantized": True}
    assert [entry.name for entry in made.manifest.inputs] == ["model", "calibration"]
    stored = load_file(root / name / "model.safetensors")
    largest = {int(each.abs().max()) for each in stored.values() if each.dtype == torch.int8}
    assert largest == ({64} if name == "int8" else set())


# what this machine's kernels take: 8-bit layers run in float32 where there is no AMX
RUNS = [
    (name, dtype) for name, scheme in (("int8", "W8A8"), ("int4", "W4A16")) for dtype in formats(scheme, False, this_machine())[0]
]


# shares of tokens that are transformers' own, where activations are rounded alike in both
LIKELIEST = {("int8", "float32"): 0.95, ("int4", "bfloat16"): 0.8}


@pytest.mark.vllm
# 8-bit layers are tried in float32, with the stricter bound; in bfloat16 the road serves them: tests/flow/test_road.py
@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *(
            pytest.param(*run, marks=pytest.mark.long) if run == ("int8", "bfloat16") else run
            for run in RUNS
            if run[1] != "float16"
        ),
        *(pytest.param(name, "bfloat16", marks=pytest.mark.long) for name in OTHERS),
    ],
)
def test_vllm_draws_what_transformers_draws(root, workers, name, dtype):
    """Greedy tokens over 16 prompts, in every format that this machine's kernels take."""
    from transformers import AutoModelForCausalLM

    if name in OTHERS:
        cfg = config(method=OTHERS[name])
        print(run(cfg, context(root, name, cfg, workers)).facts)
    pool = hold_pool(workers, GeneratorSpec())
    pool.start(str(root / name), max_len=64, dtype=dtype)
    drawn = pool.generate(PROMPTS, Sampling(max_tokens=8, temperature=0, stop_at_eos=False))
    assert pool.dtype.name == dtype
    workers.release("generator")
    model = AutoModelForCausalLM.from_pretrained(root / name, dtype=torch.float32).eval()
    short = []
    with torch.no_grad():
        for prompt, (completion,) in zip(PROMPTS, drawn, strict=True):
            # every token is judged after vLLM's own beginning: how far its logit is from the likeliest one's
            logits_TV = model(torch.tensor([prompt + completion.tokens])).logits[0, len(prompt) - 1 : -1].float()
            chosen_T = logits_TV.gather(1, torch.tensor(completion.tokens)[:, None])[:, 0]
            short += (logits_TV.max(-1).values - chosen_T).tolist()
    spread = float(logits_TV.std())
    likeliest = sum(gap == 0 for gap in short)
    print(f"{name} in {dtype}: {likeliest} of {len(short)} the likeliest, at most {max(short):.3f} short of {spread:.2f}")
    assert max(short) < 0.3 * spread
    assert likeliest / len(short) >= LIKELIEST.get((name, dtype), 0.0)


def test_a_method_that_does_not_fit_is_refused_in_words(root, workers):
    cfg = config(method={"kind": "int4", "group_size": 48})
    with pytest.raises(ConfigError, match="no multiple of group_size 48"):
        run(cfg, context(root, "misfit", cfg, workers))


def test_static_activations_need_calibration():
    with pytest.raises(ValueError, match="int8 needs `calibration`"):
        Compress(stage="compress", model="base")
    Compress(stage="compress", model="base", method={"kind": "int8", "activations": "dynamic"})


def test_custom_cards_are_not_imported_to_read_a_job():
    gone = {"kind": "custom", "path": "a_package_of_the_cluster:Card"}
    for cards in ({"method": gone}, {"format": gone}, {"format": gone, "method": gone}):
        assert Compress(stage="compress", model="base", **cards).makes().kind == "Checkpoint"
    with pytest.raises(ConfigError, match="a_package_of_the_cluster"):
        Compress(stage="compress", model="base", method=gone).misfit()
    calibrated = {"kind": "custom", "path": "raylm.compress.methods.int8:Int8"}
    assert "int8 needs `calibration`" in Compress(stage="compress", model="base", method=calibrated).misfit()


def test_an_export_has_a_card_and_no_licence_that_nobody_gave(root, workers):
    cfg = Compress(stage="compress", model="base", format={"kind": "mlx"})
    made = run(cfg, context(root, "mlx", cfg, workers))
    assert made.manifest.variant == "export:mlx"
    card = (root / "mlx" / "README.md").read_text()
    assert "license:" not in card.split("---")[1] and "mlx_lm.generate --model mlx" in card and "| base |" in card
