"""Two tiny models and rows of every kind: one whole report through Ray and vLLM."""

from __future__ import annotations

import json
import shutil

import pytest

from raylm.core.artifact import Checkpoint, Dialogues, Pairs, Prompts, Tokens
from raylm.core.config import resolve
from raylm.core.errors import DataError, StageError
from raylm.core.storage import Folder
from raylm.evaluate.config import Evaluate
from raylm.evaluate.examinations import Examinations
from raylm.evaluate.stage import run
from raylm.model.load import load_model, load_tokenizer
from raylm.model.value_head import with_value_head
from raylm.train.config import Train
from raylm.train.stage import run as train
from tests.rows import counting_rows, make_rows
from tests.stages import context

pytestmark = [pytest.mark.ray, pytest.mark.vllm]
TASKS = [
    {"kind": "bits_per_byte", "rows": "tokens"},
    {"kind": "dialogue_loss", "rows": "dialogues"},
    {"kind": "preference", "rows": "pairs"},
    {"kind": "answers", "rows": "prompts", "max_tokens": 4},
    {"kind": "reward", "rows": "prompts", "model": "judge", "max_tokens": 4},
]


def config(**table) -> Evaluate:
    return Evaluate(**{"stage": "evaluate", "models": ["base"], "tasks": TASKS} | table)


@pytest.fixture(scope="module")
def root(tmp_path_factory, workers):
    at = tmp_path_factory.mktemp("job")
    rows = counting_rows(24)
    make_rows(at, "tokens", Tokens, rows, length=16, held_out_tokens=64, held_out_bytes=128)
    make_rows(at, "dialogues", Dialogues, [{**row, "mask": [0] * 8 + [1] * 8} for row in rows])
    make_rows(
        at, "pairs", Pairs, [{"prompt": row["tokens"][:8], "chosen": row["tokens"][8:], "rejected": [250, 9, 77]} for row in rows]
    )
    make_rows(at, "prompts", Prompts, [{"tokens": row["tokens"][:8], "messages": "[]", "ground_truth": "class"} for row in rows])
    # heads of 32: what vLLM's attention on the CPU takes
    shape = {"hidden_size": 64, "num_layers": 1, "num_heads": 2, "max_length": 32}
    # the group of two ranks is the one that most modules hold
    cfg = Train(stage="train", rows="tokens", model=shape, batch=5, steps=8, optimizer={"lr": 1e-2}, workers={"count": 2})
    train(cfg, context(at, "base", cfg, workers))
    judge = context(at, "judge")
    base = load_model(str(at / "base"), "float32", plain=True)
    with_value_head(base, 3).save_pretrained(judge.out.uri)
    load_tokenizer(str(at / "base")).save_pretrained(judge.out.uri)
    judge.commit(Checkpoint, variant="reward", facts={})
    yield at
    workers.keep({"ranks:"})


def test_one_report_over_all_tasks(root, workers):
    cfg = config(gate={"answers": 0.5})
    made = run(cfg, context(root, "report", cfg, workers))
    grades = made.metrics["grades"]
    assert list(grades) == ["gzip -9", "xz -9", "untrained", "base"]
    assert grades["base"].keys() == {"bits_per_byte", "dialogue_loss", "preference", "answers", "reward"}
    assert grades["base"]["bits_per_byte"] < grades["untrained"]["bits_per_byte"]
    assert grades["base"]["dialogue_loss"] < grades["untrained"]["dialogue_loss"]
    assert grades["base"]["answers"] == 0.0
    assert made.facts == {"passed": False, "reasons": ["answers is 0, at least 0.5 is asked"], "model": "base"}
    written = json.loads(made.folder.read("report.json"))
    assert written["missing"] == {}
    assert written["grades"] == grades
    assert [note.split(":")[0] for note in written["notes"]] == ["base", "GATE"]
    page = made.folder.read("report.html").decode()
    assert f"{grades['base']['bits_per_byte']:.4f}" in page
    assert made.folder.read("curves.png")[:4] == b"\x89PNG"


def test_the_untrained_model_is_the_one_before_the_first_step(root, tmp_path):
    """Its dialogue loss over tokens that all count is the held-out loss that training measured before its first step."""
    from raylm.data.shards import Rows
    from raylm.evaluate.examinations import _fresh
    from raylm.evaluate.examine import Marks, grade_logprobs
    from raylm.evaluate.tasks.bits_per_byte import BitsPerByte

    base, tokens = (context(root, "reader").open(name) for name in ("base", "tokens"))
    card = BitsPerByte(rows="tokens")
    marks, measured = Marks(Folder(tmp_path)), []
    for name, fresh in (("untrained", _fresh(base)), ("base", None)):
        assert grade_logprobs(base.uri, fresh, [(0, card, tokens.uri)], name, marks) == {}
        mark = marks.read(name, 0)
        assert mark and mark.note == ""
        measured.append(mark.grades["bits_per_byte"])
    untrained, trained = measured
    ratio = base.metrics["held_out_loss_before"] / base.metrics["held_out_loss_after"]
    assert untrained / trained == pytest.approx(ratio, rel=1e-5)
    assert len(Rows.open(tokens.uri, "held_out")) == 4


def test_a_task_without_held_out_rows_is_refused(root, workers):
    make_rows(root, "unheld", Tokens, counting_rows(4), held_out=0)
    cfg = config(tasks=[{"kind": "bits_per_byte", "rows": "unheld"}])
    with pytest.raises(DataError, match="bits_per_byte has no held-out rows"):
        run(cfg, context(root, "refused", cfg, workers))


def test_an_examination_that_fails_costs_that_model_its_grades_and_the_next_run_asks_only_for_them(root, workers, capsys):
    broken = root / "broken"
    shutil.copytree(root / "base", broken)
    weights = broken / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1000])
    cfg = config(models=["base", str(broken)], tasks=TASKS[:3], gate={"preference": 0.0})
    ctx = context(root, "halves", cfg, workers)
    with pytest.raises(StageError, match=rf"(?s)3 grades are missing, .*{broken} in bits_per_byte: .*same command") as caught:
        run(cfg, ctx)
    assert "base in" not in str(caught.value)
    assert not ctx.out.exists("manifest.json")
    report = ctx.out.read_json("report.json")
    assert report["grades"]["base"].keys() == {"bits_per_byte", "dialogue_loss", "preference"}
    assert report["missing"][str(broken)].keys() == {"bits_per_byte", "dialogue_loss", "preference"}
    assert not report["passed"]
    assert "GATE: preference was not measured" in report["notes"]
    assert f"{broken} has no grade in preference" in " ".join(capsys.readouterr().out.split())

    weights.write_bytes(whole)
    kept = {path.name: path.stat().st_mtime_ns for path in (root / "halves" / "_work" / "marks").iterdir()}
    assert len(kept) == 6
    asked = Examinations(cfg, [resolve(card) for card in cfg.tasks], ctx)
    assert [asked._open(model, "logprobs") for model in ("untrained", "base", str(broken))] == [[], [], [0, 1, 2]]
    made = run(cfg, context(root, "halves", cfg, workers))
    assert made.metrics["grades"][str(broken)] == pytest.approx(made.metrics["grades"]["base"])
    assert made.facts["passed"]
