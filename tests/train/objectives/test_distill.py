"""The `distill` objective: against TRL's GKD on the same models, over likeliest tokens, on every layout, and what is learned."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from raylm.model.head import Asks
from raylm.model.scores import ask, causal
from raylm.parallel.strategies.ddp import Ddp
from raylm.parallel.strategies.fsdp import Fsdp
from raylm.train.batches import Batches
from raylm.train.objectives.distill import Distill
from raylm.train.objectives.objective import Passes
from tests.model.tiny import tiny_model
from tests.parallel.loops import SHAPE, fixed_rows, make_loop
from tests.parallel.on_ranks import on_ranks


def models():
    return tiny_model(vocab=70, hidden=32, layers=1, seed=0), tiny_model(vocab=70, hidden=64, layers=2, seed=1)


def micro(kind="Dialogues", rows=4):
    (made,) = Batches(fixed_rows(), kind, batch=rows, micro=rows, seed=0, pad_id=0, rank=0, world=1).split(list(range(rows)))
    return made


def taught(card, student, teacher, batch):
    """The loss of a batch, as the loop makes it."""

    def forward(inputs, asks=None):
        with torch.no_grad():
            return [ask(teacher, one, asks or Asks()) for one in inputs]

    (batch,) = card.complete([batch], Passes(forward, forward, list, forward))
    inputs = card.inputs(batch, 0)
    return card.loss(ask(student, inputs, card.asks()), inputs, batch)


def logprobs(model, batch, temperature=1.0):
    logits = model(input_ids=batch.tokens_BT).logits
    return logits, (logits.double() / temperature).log_softmax(-1)


@pytest.mark.parametrize("kind", ["Tokens", "Dialogues"])
@pytest.mark.parametrize(
    ("divergence", "beta", "temperature"), [("forward", 0.0, 1.0), ("reverse", 1.0, 2.0), ("jsd", 0.3, 1.0), ("jsd", 0.3, 2.0)]
)
def test_over_the_whole_vocabulary_it_is_gkds_loss(divergence, beta, temperature, kind):
    """TRL's own function on the logits of the same models; of Dialogues only what counts. Gradients of all weights are equal."""
    from trl.experimental.gkd.gkd_trainer import GKDTrainer

    (ours, teacher), (theirs, _), batch = models(), models(), micro(kind)
    card = Distill(teacher="x/y", top_k=999, divergence=divergence, beta=beta if 0 < beta < 1 else 0.5, alpha=0.7)
    card = card.model_copy(update={"temperature": temperature}).fitted("Tokens", range(70))
    found = taught(card, ours, teacher, batch)
    inputs = causal(batch)
    labels = inputs.target_BT.masked_fill(inputs.weight_BT == 0, -100)
    student, of_teacher = logprobs(theirs, batch)[0], logprobs(teacher, batch)[0].detach()
    gkd = GKDTrainer.generalized_jsd_loss(student, of_teacher, labels, beta=beta, temperature=temperature, num_items_in_batch=1)
    hard = torch.nn.functional.cross_entropy(student.flatten(0, 1), labels.flatten(), reduction="sum")
    right = 0.7 * temperature**2 * gkd + 0.3 * hard
    torch.testing.assert_close(found.total, right, rtol=1e-5, atol=1e-4)
    assert float(found.metrics["label_loss"]) == pytest.approx(float(hard.detach()), rel=1e-5)
    assert float(found.metrics["teacher_share"]) == pytest.approx(float(inputs.weight_BT.sum()), rel=1e-5)
    for loss in (found.total, right):
        loss.backward()
    for (name, left), each in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(left.grad, each.grad, atol=2e-5, rtol=1e-3, msg=name)


@pytest.mark.parametrize("divergence", ["forward", "reverse", "jsd"])
def test_likeliest_tokens_and_one_rest_by_hand(divergence):
    (student, teacher), batch = models(), micro()
    card = Distill(teacher="x/y", top_k=5, divergence=divergence, alpha=1.0, temperature=1.5).fitted("Tokens", range(70))
    found = taught(card, student, teacher, batch)
    counts = causal(batch).weight_BT > 0
    q, p = (logprobs(model, batch, 1.5)[1][counts].detach().exp() for model in (student, teacher))
    top, ids = p.topk(5, 1)
    p, q = (torch.cat([x.gather(1, ids), 1 - x.gather(1, ids).sum(1, keepdim=True)], 1) for x in (p, q))
    m = 0.5 * (p + q)
    right = {
        "forward": (p * (p / q).log()).sum(),
        "reverse": (q * (q / p).log()).sum(),
        "jsd": 0.5 * (p * (p / m).log()).sum() + 0.5 * (q * (q / m).log()).sum(),
    }[divergence]
    assert float(found.total.detach()) == pytest.approx(1.5**2 * float(right), rel=1e-5)
    assert float(found.metrics["divergence"]) == pytest.approx(float(right), rel=1e-5)
    assert float(found.metrics["teacher_share"]) == pytest.approx(float(top.sum()), rel=1e-5)


def test_output_layers_of_unequal_size_meet_in_what_both_have():
    """The teacher has rows beyond the tokenizer's words: none of them is asked for."""
    student, teacher = tiny_model(vocab=64, hidden=32, layers=1), tiny_model(vocab=70, hidden=32, layers=1, seed=1)
    card = Distill(teacher="x/y", top_k=999, alpha=1.0).fitted("Tokens", range(64))

    def forward(inputs, asks=None):
        return [ask(teacher, one, asks or Asks()) for one in inputs]

    (batch,) = card.complete([micro()], Passes(forward, forward, list, forward))
    assert batch.taught.id_BTK.shape[-1] == 64 and int(batch.taught.id_BTK.max()) < 64
    assert batch.taught.rest_logprob_BT.isfinite().all()
    inputs = card.inputs(batch, 0)
    total = card.loss(ask(student, inputs, card.asks()), inputs, batch).total
    total.backward()
    assert total.isfinite() and student.lm_head.weight.grad.isfinite().all()


OBJECTIVE = {"top_k": 12, "divergence": "jsd", "temperature": 1.5, "alpha": 0.8}
LAYOUTS: dict[str, tuple[Any, dict[str, Any]]] = {
    "ddp": (Ddp(), {}),
    "fsdp": (Fsdp(), {}),
    "tensor": (Fsdp(), {"tensor": 2}),
    "context": (Fsdp(), {"context": 2}),
    "pipeline": (Fsdp(), {"pipeline": 2}),
}


def trained(rank: int, world: int, at: str, names: list[str]) -> dict[str, Any]:
    """Rows of the run, held-out metrics and weights, on each layout."""
    from pathlib import Path

    found, shape = {}, {**SHAPE, "num_kv_heads": 2}
    for name in names:
        strategy, mesh = LAYOUTS[name]
        objective = Distill(teacher="x/y", **OBJECTIVE)
        loop, seen = make_loop(strategy, Path(at) / f"{name}-{world}", model=shape, objective=objective, mesh=mesh)
        found[name] = (loop.run(), [row["loss"] for row in seen], loop.engine.weights())
    return found


def test_a_student_comes_near_its_teacher_equally_on_every_layout(tmp_path):
    one = (alone := trained(0, 1, str(tmp_path), ["ddp"])["ddp"])[0]
    assert one["held_out_divergence_after"] < one["held_out_divergence_before"]
    first, _ = on_ranks(2, trained, str(tmp_path), list(LAYOUTS))
    assert_all_same(first, alone)


@pytest.mark.long
def test_four_ranks_do_what_one_does(tmp_path):
    alone = trained(0, 1, str(tmp_path), ["ddp"])["ddp"]
    assert_all_same(on_ranks(4, trained, str(tmp_path), list(LAYOUTS))[0], alone)


def assert_all_same(found: dict[str, Any], alone: Any) -> None:
    one, _, weights = alone
    for name, (metrics, losses, learned) in found.items():
        assert losses == pytest.approx(alone[1], rel=2e-4), name
        assert metrics == pytest.approx(one, rel=2e-3, abs=1e-4), name
        for key, tensor in learned.items():
            torch.testing.assert_close(tensor, weights[key], atol=5e-4, rtol=1e-2, msg=f"{name} {key}")
