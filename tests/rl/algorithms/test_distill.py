"""On-policy distillation: the loss by hand, and a trainer that comes near its teacher on given samples, on one rank or two."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from pydantic import ValidationError

from raylm.data.batch import Taught
from raylm.model.scores import Scores
from raylm.parallel.group.heartbeat import NoHeartbeat
from raylm.parallel.group.ranks import Ranks
from raylm.parallel.strategies.fsdp import Fsdp
from raylm.rl import trainer
from raylm.rl.algorithms.distill import Distill
from raylm.rl.config import RL
from raylm.rl.types import LossInputs
from raylm.trainer.setup import Teacher
from tests.model.tiny import tiny_model
from tests.parallel.on_ranks import on_ranks
from tests.rl.samples import config, experience, samples, setup_of


def test_the_loss_by_hand():
    """One counted token: the student says 1/2, 1/4 and 1/4 for the rest, the teacher 1/4, 1/4 and 1/2."""
    student = Scores(
        logprob_BT=torch.tensor([[math.log(0.5), 0.0]]),
        at_logprob_BTK=torch.tensor([[[0.5, 0.25], [0.9, 0.05]]]).log(),
        rest_logprob_BT=torch.tensor([[0.25, 0.05]]).log(),
    )
    taught = Taught(
        torch.zeros(1, 2, 2).int(), torch.tensor([[[0.25, 0.25], [0.1, 0.1]]]).log(), torch.tensor([[0.5, 0.8]]).log()
    )
    zeros, mask = torch.zeros(1, 2), torch.tensor([[1.0, 0.0]])
    inputs = LossInputs(student.logprob_BT, student.logprob_BT, None, zeros, mask, taught, student)
    for kind in ("reverse", "forward"):
        found = Distill(teacher="x/y", temperature=2.0, divergence=kind).loss(inputs)
        assert float(found.total) == pytest.approx(4 * 0.25 * math.log(2))
        assert float(found.metrics["divergence"]) == pytest.approx(0.25 * math.log(2))
        assert float(found.metrics["teacher_share"]) == pytest.approx(0.5)
        assert float(found.metrics["mismatch_kl"]) == 0.0 and float(found.metrics["nll"]) == pytest.approx(math.log(2))


def learned(rank: int, world: int, at: str) -> list[dict[str, Any]]:
    """Six updates from the same samples."""
    folder = Path(at)
    for name, seed in (("model", 0), ("teacher", 1)):
        tiny_model(vocab=64, hidden=32, layers=1, seed=seed).save_pretrained(folder / name)
    if world > 1:
        dist.barrier()
    cfg = config(algorithm=Distill(teacher="x/y", top_k=20, divergence="jsd"), strategy=Fsdp(), rewards=[], iterations=6)
    teacher = Teacher(ref="x/y", path=str(folder / "teacher"), dtype="float32")
    setup = setup_of(folder, teacher=teacher, tokens={"pad_token_id": 0, "vocab_size": 64}, steps=6)
    ranks = Ranks(rank, world, torch.device("cpu"), None, NoHeartbeat())
    trainer.build(ranks, cfg, setup)
    given = samples(tiny_model(vocab=64, hidden=32, layers=1))
    rows = [trainer.update(ranks, setup, step, experience(given, step)) for step in range(6)]
    return [{name: row[name] for name in ("loss", "divergence", "teacher_share", "grad_norm", "mismatch_kl")} for row in rows]


def test_a_student_comes_near_its_teacher_equally_on_two_ranks(tmp_path):
    one = learned(0, 1, str(tmp_path / "one"))
    assert one[-1]["divergence"] < 0.8 * one[0]["divergence"] and abs(one[0]["mismatch_kl"]) < 1e-6
    for rows in on_ranks(2, learned, str(tmp_path / "two")):
        for left, right in zip(one, rows, strict=True):
            assert right == pytest.approx(left, rel=1e-3, abs=1e-5)


def test_rewards_are_needed_where_there_is_no_teacher():
    table = {"stage": "rl", "prompts": "p", "model": "m", "iterations": 1}
    RL(**table, algorithm={"kind": "distill", "teacher": "t"})
    with pytest.raises(ValidationError, match="say `rewards`"):
        RL(**table)
