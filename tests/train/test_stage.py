"""The train stage through Ray, on hand-made rows: its results, what a dead rank costs, what is refused."""

from __future__ import annotations

import pytest
import torch

from raylm.core.artifact import Dialogues, Tokens
from raylm.core.errors import ArtifactError, ConfigError, DataError, TrainingError
from raylm.core.metrics import read_metrics
from raylm.core.storage import Folder
from raylm.train.config import Train
from raylm.train.stage import prepared, run
from tests.model.tiny import tiny_checkpoint
from tests.rows import counting_rows, make_rows
from tests.stages import context

pytestmark = pytest.mark.ray
SHAPE = {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "max_length": 32}


@pytest.fixture(scope="module")
def root(tmp_path_factory, workers):
    """A job's folder with tokens, dialogues and a model trained on the tokens."""
    at = tmp_path_factory.mktemp("job")
    make_rows(at, "tokens", Tokens, counting_rows(40), length=16, held_out_tokens=64, held_out_bytes=128)
    make_rows(at, "dialogues", Dialogues, [{**row, "mask": [0] * 6 + [1] * 10} for row in counting_rows(20)], length=16)
    run(config(), context(at, "base", config(), workers))
    # the group of ranks stays for the next module: starting one costs more than what most tests do with it
    return at


def config(**table) -> Train:
    usual = {
        "stage": "train",
        "rows": "tokens",
        "model": SHAPE,
        "batch": 6,
        "micro_batch": 2,
        "steps": 12,
        "save_every": 4,
        "optimizer": {"lr": 1e-2},
        "workers": {"count": 2},
    }
    return Train(**usual | table)


def opened(root, name):
    return context(root, "reader").open(name)


def test_the_checkpoint_loads_in_transformers_and_has_learned(root):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    made = opened(root, "base")
    metrics = made.metrics
    assert metrics["held_out_bits_per_byte_after"] < metrics["held_out_bits_per_byte_before"] - 0.1
    model = AutoModelForCausalLM.from_pretrained(made.uri).eval()
    tokens = torch.tensor([row["tokens"] for row in counting_rows(40)[-4:]])
    with torch.no_grad():
        loss = float(model(tokens, labels=tokens).loss)
    assert loss == pytest.approx(metrics["held_out_loss_after"], abs=1e-5)
    assert loss / torch.log(torch.tensor(2.0)).item() / 2 == pytest.approx(metrics["held_out_bits_per_byte_after"], abs=1e-5)
    assert AutoTokenizer.from_pretrained(made.uri).eos_token_id == 2
    assert made.facts["parameters"] == model.num_parameters()
    assert not (root / "base" / "_work").exists()


def test_metrics_hold_every_step_once(root):
    rows = read_metrics(Folder(root / "base"))
    assert [row["step"] for row in rows] == list(range(12))
    assert rows[0].keys() >= {"loss", "lr", "grad_norm", "tokens_per_s", "finite"}


def test_lora_leaves_merged_weights_and_an_adapter_that_peft_loads(root, workers):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    cfg = config(rows="dialogues", model="base", adapter={"kind": "lora", "rank": 4}, steps=20)
    made = run(cfg, context(root, "tuned", cfg, workers))
    tokens = torch.tensor([row["tokens"] for row in counting_rows(4)])
    base = AutoModelForCausalLM.from_pretrained(root / "base").eval()
    with torch.no_grad():
        plain = base(tokens).logits
        adapted = PeftModel.from_pretrained(base, made.folder.path("adapter")).eval()(tokens).logits
        merged = AutoModelForCausalLM.from_pretrained(made.uri).eval()(tokens).logits
        learned = torch.tensor([row["tokens"] for row in counting_rows(16)])
        labels = learned.clone()
        labels[:, :6] = -100
        models = [AutoModelForCausalLM.from_pretrained(root / name) for name in ("base", "tuned")]
        losses = [float(model(learned, labels=labels).loss) for model in models]
    torch.testing.assert_close(merged, adapted, atol=1e-5, rtol=0)
    assert float((plain - merged).abs().max()) > 1e-2
    assert losses[1] < losses[0] - 0.02
    assert [entry.kind for entry in made.manifest.inputs] == ["Dialogues", "Checkpoint"]


def test_a_loss_that_is_nan_stops_with_step_and_rows(root, workers, tmp_path):
    from safetensors.torch import load_file, save_file

    broken = tiny_checkpoint(tmp_path / "broken", vocab=300, hidden=32, layers=1)
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    cfg = config(model=str(broken))
    with pytest.raises(TrainingError, match="step 0: gradient norm nan, loss nan") as caught:
        run(cfg, context(root, "diverged", cfg, workers))
    assert caught.value.where.startswith("rows [")
    uri, documents = caught.value.where.split(": ")
    assert uri.endswith("tokens") and documents.split(", ")[0]


def test_rows_of_another_tokenizer_are_refused(root, workers, tmp_path):
    small = tiny_checkpoint(tmp_path / "small", vocab=280, hidden=32, layers=1)
    cfg = config(model=str(small))
    with pytest.raises(ConfigError, match="300 tokens, the model's embedding 280"):
        run(cfg, context(root, "misfit", cfg, workers))


def test_a_mixture_draws_exact_shares_and_says_so(root, workers):
    facts = {"held_out_tokens": 64, "held_out_bytes": 128, "num_tokens": 96}
    make_rows(root, "few", Tokens, counting_rows(10), length=16, **facts)
    parts = [{"rows": "tokens", "weight": 0.75}, {"rows": "few", "weight": 0.25}]
    cfg = config(rows={"kind": "mixture", "parts": parts}, steps=8)
    made = run(cfg, context(root, "mixed", cfg, workers))
    assert made.facts["mixture"] == [
        {"rows": "tokens", "num_rows": 36, "num_tokens": 0, "epochs": 1.0},
        {"rows": "few", "num_rows": 12, "num_tokens": 192, "epochs": 2.0},
    ]
    assert made.facts["rows"] == 42 and made.metrics["held_out_bits_per_byte_after"] > 0
    assert [entry.name for entry in made.manifest.inputs] == ["rows.parts.0.rows", "rows.parts.1.rows"]
    assert len(read_metrics(made.folder)) == 8


@pytest.mark.parametrize(
    ("name", "kind", "facts", "said"),
    [
        ("other_length", Tokens, {"length": 8}, "their length differs: 16 and 8"),
        ("other_kind", Dialogues, {"length": 16}, "their kind differs: Tokens and Dialogues"),
        ("other_tokenizer", Tokens, {"length": 16, "vocab": 280}, "their tokenizer differs"),
    ],
)
def test_parts_that_differ_are_not_mixed(root, workers, name, kind, facts, said):
    make_rows(root, name, kind, counting_rows(8, vocab=280), **facts)
    cfg = config(rows={"kind": "mixture", "parts": [{"rows": "tokens"}, {"rows": name}]})
    with pytest.raises(DataError, match=f"'tokens' and '{name}' cannot be mixed, {said}"):
        run(cfg, context(root, f"mixed_{name}", cfg, workers))


def test_no_rows_are_refused(root, workers):
    make_rows(root, "nothing", Tokens, counting_rows(2), held_out=2)
    cfg = config(rows="nothing")
    with pytest.raises(DataError, match="no training rows"):
        run(cfg, context(root, "empty", cfg, workers))


def test_a_start_that_will_not_do_is_refused_before_ranks_start(root, tmp_path):
    from safetensors.torch import load_file, save_file

    start = tiny_checkpoint(tmp_path, vocab=300, hidden=32, layers=1)
    whole = load_file(start / "model.safetensors")
    table = config(rows="dialogues", model=str(start))
    _, setup, _ = prepared(table, context(root, "start", table))
    assert setup.model_path == str(start)
    lost = {name: tensor for name, tensor in whole.items() if "up_proj" not in name}
    save_file(lost, start / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ArtifactError, match=r"1 of 12 tensors are missing: model.layers.0.mlp.up_proj.weight"):
        prepared(table, context(root, "start", table))
    save_file(whole, start / "model.safetensors", metadata={"format": "pt"})
    table = config(model=str(start), objective={"kind": "masked_lm"})
    with pytest.raises(ConfigError, match="asked for is an encoder"):
        prepared(table, context(root, "start", table))
