"""Scores made ahead: what is stored is read by row, an interrupted pass goes on, other scorers and rows have their own folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from raylm.core.artifact import Tokens
from raylm.core.config import Config, WorkerSpec
from raylm.core.errors import ArtifactError, DataError
from raylm.core.storage import Folder
from raylm.data.shards import Rows
from raylm.trainer import stored_scores
from raylm.trainer.stored_scores import WithScores, content_of, open_scores, planned, store_scores
from tests.rows import counting_rows, make_rows
from tests.stages import context

pytestmark = pytest.mark.ray


class Counting(Config):
    """Every token twice, and how many there are; fails on a token as long as a file is there."""

    placement: ClassVar[frozenset[str]] = frozenset({"notes", "fails_at"})
    factor: int = 2
    notes: str = ""
    fails_at: int = -1

    def score(self, rows: Any) -> list[dict[str, Any]]:
        Path(self.notes, f"{int(rows[0]['tokens'][0])}").touch()
        if any(self.fails_at in row["tokens"] for row in rows) and Path(self.notes, "fails").exists():
            raise DataError("the worker fails")
        return [
            {"twice": np.repeat(row["tokens"], self.factor).astype(np.int32), "number": float(len(row["tokens"]))} for row in rows
        ]


def test_a_pass_goes_on_where_it_was_interrupted_and_is_made_once(tmp_path, workers, monkeypatch):
    monkeypatch.setattr(stored_scores, "UNIT_TOKENS", 48)
    rows = make_rows(tmp_path / "job", "rows", Tokens, counting_rows(14), length=16, held_out=4)
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "fails").touch()
    scorer, ctx = Counting(notes=str(notes), fails_at=6 + 3 * 9), context(tmp_path / "job", "train", workers=workers)
    spec, asked = WorkerSpec(count=1, cpus=0.5), []

    def store() -> str:
        return store_scores(ctx, scorer, rows, spec, lambda: asked.append(1))

    assert [unit["last"] for unit in planned(Folder(tmp_path / "job"), scorer, rows).units] == [3, 6, 9, 10, 3, 4]
    with pytest.raises(DataError, match="the worker fails"):
        store()
    folder = planned(Folder(tmp_path / "job"), scorer, rows).folder
    with pytest.raises(ArtifactError, match="not whole"):
        open_scores(folder.uri, "train")
    done = {path.name for path in Path(folder.uri).glob("_work/scores-*.json")}
    assert 0 < len(done) < 6
    for path in notes.iterdir():
        path.unlink()
    uri = store()
    # a unit that was marked is not scored again
    assert len(list(notes.iterdir())) == 6 - len(done)
    train, held_out = (WithScores(Rows.open(rows.uri, split), open_scores(uri, split)) for split in ("train", "held_out"))
    assert len(train) == 10 and len(held_out) == 4
    for each in (train[0], train[9], held_out[3]):
        assert each["scores"]["twice"].tolist() == np.repeat(each["tokens"], 2).tolist()
        assert each["scores"]["number"] == 16.0
    for path in notes.iterdir():
        path.unlink()
    assert store() == uri and not list(notes.iterdir()) and len(asked) == 2
    # placement is no part of what scores are; what the scorer computes is
    folders = [planned(Folder(tmp_path), card, rows).folder.name for card in (Counting(), scorer, Counting(factor=3))]
    assert folders[0] == folders[1] == folder.name != folders[2]


def test_weights_of_others_are_told_apart_by_their_files(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "a.safetensors").write_bytes(b"1234")
    before = content_of(str(tmp_path / "model"))
    assert before == content_of(str(tmp_path / "model"))
    os.utime(tmp_path / "model" / "a.safetensors", ns=(1, 1))
    (tmp_path / "model" / "a.safetensors").write_bytes(b"4321")
    assert content_of(str(tmp_path / "model")) != before
    assert content_of("org/name") == content_of("org/name") != content_of("org/other")


def test_a_teacher_keeps_its_last_answers_as_far_as_they_have_room(monkeypatch):
    import numpy as np

    from raylm.trainer import teacher_workers

    asked = []

    class Scorer:
        def score(self, rows):
            asked.append(rows)
            return [{"rest": np.zeros(100, np.float32)} for _ in rows]

    monkeypatch.setattr(teacher_workers, "KEPT_BYTES", 900)
    worker = teacher_workers.TeacherWorker(Scorer())
    one, two, three = ([{"tokens": np.array([number])}] for number in range(3))
    for rows in (one, two, two, one, three, two, one):
        assert len(worker.score(rows)[0]["rest"]) == 100
    assert [int(rows[0]["tokens"][0]) for rows in asked] == [0, 1, 2, 0]
