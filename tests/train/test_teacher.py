"""Teachers of a train stage, through Ray: live and stored ones teach the same; what no student can learn from is refused."""

from __future__ import annotations

import os
import signal

import pytest
import ray

from raylm.core.artifact import Dialogues, Tokens
from raylm.core.errors import ConfigError
from raylm.train.config import Train
from raylm.train.stage import prepared, run
from tests.model.tiny import tiny_checkpoint
from tests.rows import counting_rows, make_rows
from tests.stages import context

pytestmark = pytest.mark.ray
SHAPE = {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "max_length": 32}


@pytest.fixture(scope="module")
def root(tmp_path_factory, workers):
    """A job's folder with tokens, dialogues, and a teacher that was trained on the tokens."""
    at = tmp_path_factory.mktemp("job")
    starts = [0, 7]
    make_rows(at, "tokens", Tokens, [{**row, "starts": starts} for row in counting_rows(40)], length=16, held_out_tokens=64)
    masked = [{**row, "starts": starts, "mask": [0] * 6 + [1] * 10} for row in counting_rows(20)]
    make_rows(at, "dialogues", Dialogues, masked, length=16)
    shape = {**SHAPE, "hidden_size": 64, "num_layers": 2}
    cfg = config("teacher", model=shape, objective={"kind": "next_token"}, steps=30)
    run(cfg, context(at, "teacher", cfg, workers))
    return at


def config(teacher="teacher", objective=None, **table) -> Train:
    distill = {"kind": "distill", "teacher": teacher, "top_k": 8, "divergence": "jsd", "temperature": 1.5}
    usual = {
        "stage": "train",
        "rows": "tokens",
        "model": SHAPE,
        "objective": {**({} if (objective or {}).get("kind") == "next_token" else distill), **(objective or {})},
        "batch": 6,
        "micro_batch": 2,
        "steps": 10,
        "held_out_rows": 4,
        "optimizer": {"lr": 1e-2},
        "workers": {"count": 2},
        "scorers": {"count": 1, "cpus": 0.5},
    }
    return Train(**usual | table)


@pytest.mark.parametrize("more", [{}, {"rows": "dialogues"}, {"document_mask": True}], ids=["tokens", "dialogues", "documents"])
def test_live_and_stored_scores_teach_the_same(root, workers, more):
    made = []
    for scores in ("live", "stored"):
        cfg, name = config(objective={"teacher_scores": scores}, **more), f"{scores}-{'-'.join(map(str, more.values()))}"
        made.append(run(cfg, context(root, name, cfg, workers)).metrics)
    held_out = [{name: value for name, value in each.items() if name.startswith("held_out")} for each in made]
    assert held_out[1] == pytest.approx(held_out[0], rel=1e-4)
    assert made[0]["held_out_divergence_after"] < made[0]["held_out_divergence_before"]


def test_teachers_on_workers_of_their_own_say_what_stored_ones_do_also_when_one_is_killed(root, workers):
    more = {"scorers": {"count": 2, "cpus": 0.5}, "steps": 15}

    def kill_one(step, **values):
        if step == 2:
            actors, _ = next(held for key, held in workers._held.items() if key.startswith("teacher:"))
            killed.append((actors[0], pid_of(actors[0])))
            os.kill(killed[0][1], signal.SIGKILL)

    found, killed = {}, []
    for scores in ("stored", "workers"):
        cfg = config(objective={"teacher_scores": scores}, **more)
        made = context(root, f"beside-{scores}", cfg, workers)
        if scores == "workers":
            made.log = kill_one
        found[scores] = {name: value for name, value in run(cfg, made).metrics.items() if name.startswith("held_out")}
    assert pid_of(killed[0][0]) != killed[0][1], "it was started again"
    assert found["workers"] == pytest.approx(found["stored"], rel=1e-6)
    assert set(config(objective={"teacher_scores": "workers"}).roles()) == {"ranks", "teacher"}


def pid_of(actor):
    return ray.get(actor.__ray_call__.remote(lambda self: os.getpid()), timeout=60)


def test_a_run_with_another_learning_rate_reads_the_same_scores(root, workers):
    scores = {path: path.stat().st_mtime_ns for path in (root / ".scores").rglob("*.arrow")}
    cfg = config(objective={"teacher_scores": "stored"}, optimizer={"lr": 2e-2}, steps=2)
    run(cfg, context(root, "faster", cfg, workers))
    assert {path: path.stat().st_mtime_ns for path in (root / ".scores").rglob("*.arrow")} == scores


def test_another_tokenizer_or_kind_of_model_is_refused(root):
    from raylm.model.shapes.bert import Bert

    tiny_checkpoint(root / "smaller", vocab=290)
    tiny_checkpoint(root / "other", vocab=400)
    tokens = {"vocab_size": 300, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    Bert(hidden_size=32, num_layers=1, num_heads=2).build(tokens, 0).save_pretrained(root / "masked")
    for name, why in (
        ("smaller", "300 tokens, the model's embedding 290"),
        ("other", "has another tokenizer than the rows of 'tokens': the model's tokenizer cuts"),
        ("masked", "this is an encoder that predicts masked tokens"),
    ):
        cfg = config(f"{root}/{name}")
        with pytest.raises(ConfigError, match=f"teacher '{root}/{name}'.*{why}"):
            prepared(cfg, context(root, "refused", cfg))
