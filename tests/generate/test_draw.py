"""Drawings that are killed and go on leave what one that was not disturbed leaves, row by row."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from raylm.core.artifact import open_artifact
from raylm.core.errors import DataError, StageError
from raylm.core.storage import Folder
from raylm.data.records import id_of, is_held_out
from raylm.data.shards import read_parquet
from raylm.generate.asked import Reader, units_of
from raylm.generate.config import Generate
from raylm.generate.draw import Draw, seed_of
from raylm.generate.render import Renderer
from raylm.generate.stage import totals
from raylm.inference.completions import Quarantined
from tests.generate.engines import CONFIG, TEXTS, Engines, draw, make_texts, tokenizer
from tests.stages import context

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    at = tmp_path_factory.mktemp("job")
    make_texts(at)
    return at


def files(ctx):
    return {name: ctx.out.read(name) for name in ctx.out.files() if not name.startswith(("_work", "metrics"))}


def test_what_is_drawn_and_what_is_rejected(root):
    engines = Engines()
    ctx, marks = draw(root, "calm", engines)
    assert engines.most == 5, "never more than the window is asked at once, and it is filled over the edges of shards"
    # 20 rows in shards of 13 and 7: units of 8, 5 and 7
    assert [mark["asked"] for mark in marks] == [8, 5, 7]
    total = totals(marks)
    assert total["rejected"] == {
        "ends_its_generator": 1,
        "refused: ValueError: it does not like this one": 1,
        "special_token_in_text": 1,
        "too_long": 1,
    }
    assert (total["rows"], total["asked"], total["finish_reasons"]) == (32, 20, {"length": 16, "stop": 16})
    assert total["rejected_examples"]["ends_its_generator"] == ["raw.txt:30"]
    table = read_parquet(ctx.out, "documents-00001.parquet").to_pylist()
    asked = [8, 10, 12]
    assert [(row["row_id"], row["draw"], row["start"]) for row in table] == [
        (id_of("raw.txt", 10 * at, 10 * at + 9), place, 10 * at) for at in asked for place in (0, 1)
    ]
    first = table[0]
    assert (first["prompt"], first["completion_tokens"], first["finish_reason"]) == (TEXTS[8], 3, "length")
    assert (
        first["text"] == first["completion"]
        and first["mean_logprob"] == -0.5
        and table[1]["mean_logprob"] == pytest.approx(-0.833)
    )
    # all completions of a row, and whatever else is made of it, stand on one side
    assert first["id"] == f"{first['row_id']}-0" and is_held_out(first["id"], 0.5) == is_held_out(first["row_id"], 0.5)
    lines = [json.loads(line) for line in ctx.out.read("rejected-00000.jsonl").decode().splitlines()]
    assert [(line["reason"], line["where"], line["prompt"]) for line in lines] == [("ends_its_generator", "raw.txt:30", "poison")]


@pytest.mark.parametrize("answers", [1, 7, 14])
def test_one_that_is_killed_goes_on_at_its_row(root, answers):
    name = f"killed{answers}"
    command = [sys.executable, "-m", "tests.generate.engines", str(root), name, str(answers)]
    killed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    engines = Engines()
    ctx, marks = draw(root, name, engines)
    calm, whole = draw(root, "calm", Engines())
    # what was answered before the kill is not asked again: 20 rows less two that are rejected before
    assert engines.answered <= 18 - answers + 1
    assert totals(marks) == totals(whole)
    assert files(ctx) == files(calm)
    assert not [file for file in ctx.work.files() if file.startswith("rows-")]


def test_a_line_that_was_cut_is_drawn_again(root):
    command = [sys.executable, "-m", "tests.generate.engines", str(root), "cut", "3"]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    journal = root / "cut" / "_work" / "rows-00000.jsonl"
    journal.write_bytes(journal.read_bytes()[:-9])
    ctx, _ = draw(root, "cut", Engines())
    assert files(ctx) == files(draw(root, "calm", Engines())[0])


def test_too_many_rejected_rows_stop_the_stage_and_work_is_kept(root):
    with pytest.raises(DataError, match=r"completions are rejected .*max_rejected is 10%"):
        draw(root, "picky", Engines(), max_rejected=0.1)
    with pytest.raises(DataError, match=r"6 of 26 completions are rejected"):
        # it says so again before it asks anything
        draw(root, "picky", Engines(), max_rejected=0.1)
    engines = Engines()
    draw(root, "picky", engines, max_rejected=0.5)
    assert engines.answered <= 6, "of the last shard, which was not whole"


def test_rows_that_end_their_generators_one_after_the_other_stop_the_stage(root):
    class Broken(Engines):
        def answer(self, tokens, sampling, seed):
            return Quarantined(3, "out of memory")

    with pytest.raises(StageError, match=r"3 of \d+ rows ended their generator again and again: .*out of memory"):
        draw(root, "broken", Broken())


def test_seeds_are_those_of_the_row():
    assert seed_of(3, "a") == seed_of(3, "a") != seed_of(3, "b") != seed_of(4, "b")
    assert 0 <= seed_of(0, "") < 2**62


def test_rows_that_stopped_the_stage_are_asked_again_by_the_next_attempt(root):
    class Broken(Engines):
        def answer(self, tokens, sampling, seed):
            return Quarantined(3, "out of memory")

    with pytest.raises(StageError, match="out of memory"):
        draw(root, "mended", Broken())
    ctx, marks = draw(root, "mended", Engines())
    assert totals(marks) == totals(draw(root, "calm", Engines())[1]) and files(ctx) == files(draw(root, "calm", Engines())[0])


def test_tokens_are_counted_of_this_attempt_alone(root):
    drawn = []
    for _ in range(2):
        cfg = Generate(**CONFIG)
        artifact, ctx = open_artifact(Folder(root / "texts")), context(root, "counted", cfg)
        drawing = Draw(cfg, ctx, Engines(), Reader(artifact, Renderer(tokenizer(), None, None, False)), 40, 5)  # type: ignore[arg-type]
        total = totals(drawing.run(units_of(artifact, cfg.rows_per_shard, None)))
        drawn.append((drawing.num_tokens, total["completion_tokens"]))
    assert drawn == [(96, 96), (0, 96)]
