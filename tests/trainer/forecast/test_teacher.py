"""What a plan says of a teacher: memory and time beside the student, bytes that are stored, and what cannot be."""

from __future__ import annotations

import pytest

from raylm import job
from raylm.core.errors import PlanError
from raylm.estimate import _known, estimate
from raylm.trainer.forecast.memory import memory_of
from raylm.trainer.forecast.report import forecast
from raylm.trainer.forecast.teacher import teacher_memory
from tests.test_job import write

WIDE = (
    '{kind = "llama", hidden_size = 8192, num_layers = 80, num_heads = 64, num_kv_heads = 8, intermediate_size = 28672, '
    "max_length = 64}"
)
BERT = '{kind = "bert", hidden_size = 32, num_layers = 1, num_heads = 2}'
SIZE = {"length": 8, "micro": 2, "world": 1, "num_micros": 3}
GPUS = 'workers = {count = 8, gpus = 1, device = "h100"}'


def taught(tmp_path, scores="live", more="", teacher="large"):
    stage = (
        f'[stages.large]\nstage = "train"\nrows = "tokens"\nmodel = {WIDE}\nbatch = 4\nsteps = 2\n'
        f'[stages.masked]\nstage = "train"\nrows = "tokens"\nmodel = {BERT}\n'
        'objective = {kind = "masked_lm"}\nbatch = 4\nsteps = 2\n'
        '[stages.small]\nstage = "train"\nrows = "tokens"\nmodel = "base"\nbatch = 8\nsteps = 2\ndtype = "bfloat16"\n'
        f'objective = {{kind = "distill", teacher = "{teacher}", top_k = 64, teacher_scores = "{scores}"}}\n{more}\n'
    )
    return job.load(write(tmp_path, lambda text: text + stage))


def test_a_live_teacher_lies_on_the_ranks(tmp_path):
    loaded = taught(tmp_path, more=GPUS)
    cfg, known = loaded.stages["small"], _known(loaded, "small")
    assert known.teacher is not None and known.teacher["hidden_size"] == 8192
    held, alone = teacher_memory(cfg, known.teacher, 8), forecast(cfg, known._replace(teacher=None), "small")
    # 70 billion weights of two bytes over eight ranks, and two of 80 blocks gathered
    assert 15e9 < held.weights < 18e9 and 3e9 < held.gathered < 5e9
    lines = estimate(loaded, "small")
    assert any(f"{held.weights / 1e9:.2f} GB are of the teacher" in line for line in lines)
    seconds = [float(found[-1].split(" s per step")[0]) for found in (lines, alone)]
    assert seconds[0] > 2 * seconds[1]
    # eight bytes of each class of all micro batches, and what is computed of one
    few, many = (
        memory_of(cfg.model_copy(update={"objective": cfg.objective.model_copy(update={"top_k": k})}), known.config, **SIZE).loss
        for k in (10, 20)
    )
    assert many - few == 10 * 2 * 8 * (8 * 3 + 24)
    with pytest.raises(PlanError, match="small needs"):
        estimate(taught(tmp_path, more=GPUS.replace("8", "1", 1)), "small")


def test_stored_answers_are_told_in_bytes_and_scorers_hold_the_teacher_whole(tmp_path):
    lines = estimate(taught(tmp_path, "stored"), "small")
    length = _known(taught(tmp_path), "small").length
    assert f"is stored ahead: {(8 * 64 + 4) * length / 1e6:.2f} MB a row at most" in lines[-2]
    assert "each of 1 scorers holds the teacher whole" in lines[-1]
    roles = taught(tmp_path, "stored", "scorers = {count = 3, cpus = 2}").stages["small"].roles()
    assert (roles["scorers"].count, roles["scorers"].cpus, roles["scorers"].phase) == (3, 2, 2)
    with pytest.raises(PlanError, match=r"a scorer holds the teacher whole, 13.* GB, h100 has 80"):
        estimate(taught(tmp_path, "stored", GPUS), "small")


def test_a_teacher_that_predicts_no_next_token_is_refused(tmp_path):
    with pytest.raises(PlanError, match=r"objective\.teacher.*'masked' makes an encoder that predicts masked tokens"):
        taught(tmp_path, teacher="masked")


def test_a_teacher_on_workers_of_its_own_takes_nothing_of_the_ranks(tmp_path):
    lines = estimate(taught(tmp_path, "workers", "scorers = {count = 3, cpus = 2}"), "small")
    assert lines[-1].startswith("each of 3 scorers holds the teacher whole") and not any(
        "of the teacher" in line for line in lines
    )
    roles = taught(tmp_path, "workers", "scorers = {count = 3, cpus = 2}").stages["small"].roles()
    assert roles["teacher"].count == 3 and roles["teacher"].phase == roles["ranks"].phase
