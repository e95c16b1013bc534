"""A tiny model and fixed rows: the loop without Ray: golden losses, skips, measuring, resuming."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from raylm.core.errors import TrainingError
from raylm.data.schedule import Mixed, Schedule
from raylm.model.adapters.lora import Lora
from raylm.parallel.mesh import Grid, Mesh
from raylm.parallel.strategies.ddp import Ddp
from raylm.parallel.strategies.fsdp import Fsdp
from tests.parallel.loops import fixed_rows, losses, make_loop

GOLDEN = Path(__file__).parents[1] / "assets" / "losses" / "train.json"
CASES = {
    "next_token on tokens": {"kind": "Tokens"},
    "next_token on dialogues": {},
    "next_token with lora": {"adapter": Lora(rank=4)},
    "next_token in bfloat16": {"dtype": "bfloat16"},
    "dpo": {"kind": "Pairs", "objective": {"kind": "dpo"}},
    "dpo with lora": {"kind": "Pairs", "objective": {"kind": "dpo", "beta": 0.5}, "adapter": Lora(rank=4)},
}


def train(folder, case):
    loop, seen = make_loop(Ddp(), folder, steps=10, **CASES[case])
    metrics = loop.run()
    return {"loss": losses(seen), "held_out": [metrics["held_out_loss_before"], metrics["held_out_loss_after"]]}


@pytest.mark.parametrize("case", list(CASES))
def test_golden_losses(tmp_path, case):
    """A refactor must not change these numbers; `python -m tests.train.test_loop` writes them anew."""
    golden = json.loads(GOLDEN.read_text())[case]
    found = train(tmp_path, case)
    tolerance = 2e-2 if "bfloat16" in case else 1e-4
    assert found["loss"] == pytest.approx(golden["loss"], abs=tolerance)
    assert found["held_out"] == pytest.approx(golden["held_out"], abs=tolerance)


def test_ranks_that_share_rows_drop_others_of_their_tokens(tmp_path):
    loop, _ = make_loop(Ddp(), tmp_path)

    def seeds(**mesh):
        found = []
        for rank in range(2):
            loop.engine.grid = Grid(Mesh(**mesh), rank, 2, "cpu")
            found.append(loop._seed(3))
        return found

    assert len(set(seeds(context=2))) == 2
    assert len(set(seeds(tensor=2))) == 1, "tensor ranks hold the same tokens"
    assert len(set(seeds())) == 2


def test_a_step_that_is_not_finite_is_counted_and_leaves_the_weights(tmp_path):
    loop, seen = make_loop(Ddp(), tmp_path, steps=4, max_skipped=4)
    before = {name: tensor.clone() for name, tensor in loop.engine.weights().items()}
    loop.engine.bare.lm_head.register_forward_hook(lambda *call: call[2] * float("nan"))
    assert loop.run()["skipped_steps"] == 4
    assert [row["finite"] for row in seen] == [False] * 4
    assert all(tensor.equal(before[name]) for name, tensor in loop.engine.weights().items())


def test_the_error_names_step_and_rows(tmp_path):
    loop, _ = make_loop(Ddp(), tmp_path, steps=4, max_skipped=1)
    loop.engine.bare.lm_head.register_forward_hook(lambda *call: call[2] * float("nan"))
    with pytest.raises(TrainingError, match="step 1: gradient norm nan, loss nan") as caught:
        loop.run()
    assert str(sorted(loop.batches.indices(1))) in caught.value.where


def mean_over(loop, rows):
    """Mean loss of a token over `rows`, from the logits of each row alone."""
    total = count = 0.0
    for row in (loop.held_out._rows[index] for index in rows):
        tokens, mask = torch.tensor(row["tokens"])[None], torch.tensor(row["mask"])
        with torch.no_grad():
            logprobs = loop.engine.bare(input_ids=tokens).logits[0, :-1].log_softmax(-1)
        total -= float((logprobs.gather(1, tokens[0, 1:, None])[:, 0] * mask[1:]).sum())
        count += float(mask[1:].sum())
    return total / count


@pytest.mark.parametrize(("held_out", "said"), [(0, "no token of a batch"), (7, "no token of the held-out rows")])
def test_rows_without_a_token_that_counts_are_an_error_in_words(tmp_path, held_out, said):
    loop, _ = make_loop(Ddp(), tmp_path, held_out_rows=held_out)
    for row in loop.batches.rows:
        row["mask"] = row["mask"] * 0
    if not held_out:
        loop.held_out = None
    with pytest.raises(TrainingError, match=said) as caught:
        loop.run()
    assert "rows" in caught.value.where and caught.value.next


def test_held_out_loss_is_the_mean_over_all_counted_tokens(tmp_path):
    loop, _ = make_loop(Ddp(), tmp_path, micro=3)
    assert loop.evaluate()["held_out_loss"] == pytest.approx(mean_over(loop, list(range(7))), abs=1e-6)
    assert loop.engine.model.training


def test_a_mixture_is_measured_on_as_many_draws_as_are_asked_for(tmp_path):
    loop, _ = make_loop(Ddp(), tmp_path, micro=40, held_out_rows=12)
    parts = [fixed_rows()[:2], fixed_rows()[2:]]
    loop.held_out._rows = Mixed(parts, Schedule([(None, (1, 1))]))
    # the small part has two rows, not six: its other draws are left out, and none of the large part's
    assert loop.evaluate()["held_out_loss"] == pytest.approx(mean_over(loop, [0, 1, 2, 3, 4, 5, 6, 7]), abs=1e-6)


def test_the_reference_of_lora_is_the_model_without_its_adapter(tmp_path):
    loop, _ = make_loop(Fsdp(), tmp_path, kind="Pairs", objective={"kind": "dpo"}, adapter=Lora(rank=2))
    assert loop.evaluate()["held_out_margin"] == pytest.approx(0.0, abs=1e-6)
    loop.run()
    assert loop.evaluate()["held_out_margin"] > 0.01


def test_dropout_of_a_resumed_run_is_that_of_the_uninterrupted(tmp_path):
    table = {"adapter": Lora(rank=4, dropout=0.5)}
    whole, resumed = make_loop(Ddp(), tmp_path, **table), make_loop(Ddp(), tmp_path, **table)
    plain = make_loop(Ddp(), tmp_path / "plain", adapter=Lora(rank=4))
    for loop, _ in (whole, resumed, plain):
        loop.run()
    assert losses(resumed[1]) == losses(whole[1])
    assert losses(plain[1]) != pytest.approx(losses(whole[1]), abs=1e-5)


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as at:
        GOLDEN.write_text(json.dumps({case: train(Path(at) / case, case) for case in CASES}, indent=1) + "\n")
