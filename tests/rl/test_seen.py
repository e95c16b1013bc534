"""Every rollout is kept, by iteration: once after a resume, not at all beyond a bound, and a disk that fails ends nothing."""

from __future__ import annotations

import pyarrow.parquet as pq
import pytest

from raylm import view
from raylm.core.errors import ArtifactError
from raylm.core.storage import Folder
from raylm.rl import rollout_files
from raylm.rl.rollout_files import HELD_OUT, files_in, folder_of, iterations_in, read
from raylm.rl.sample_table import held_out_table, sample_table
from raylm.rl.seen import Seen
from tests.rl.rollouts import learned, some
from tests.rl.samples import config


def seen(folder, iterations, **table):
    with Seen(config(**table), Folder(folder)) as kept:
        for at in iterations:
            rollouts = some(at)
            kept.add(at, rollouts, learned(rollouts), {"version": 6})
    return kept


def test_a_row_says_what_was_drawn_scored_and_learned(tmp_path):
    seen(tmp_path, [0])
    first, second, *_, last = read(folder_of(Folder(tmp_path)), 0)
    assert (first["row"], first["source"], first["ground_truth"], first["tokens"]) == (3, "sums", "4", [5, 6])
    assert (first["score"], first["advantage"], first["advantages"], first["staleness"]) == (1.25, 0.5, None, 2)
    assert first["rewards"][0] == {"name": "answer", "value": 1.0, "reason": "right"}
    assert first["versions"] == [{"version": 4, "start": 0, "end": 1}, {"version": 5, "start": 1, "end": 2}]
    assert (second["finish_reason"], second["advantage"]) == ("length", -0.5)
    assert (last["score"], last["unscored"], last["advantage"]) == (None, "raised: a reward raised KeyError", None)


def test_advantages_by_token_are_kept_where_they_differ_and_masked_tokens_do_not_count(tmp_path):
    rollouts = some()[:1]
    rollouts[0] = rollouts[0]._replace(trajectory=rollouts[0].trajectory._replace(mask=[1, 0]))
    experience = learned(rollouts)
    (sample,) = experience.samples
    with Seen(config(), Folder(tmp_path)) as kept:
        for at, advantages in enumerate(([1.0, 9.0], [1.0, 3.0])):
            mask = [1, 0] if at == 0 else [1, 1]
            changed = experience._replace(samples=[sample._replace(advantages=advantages, mask=mask)])
            kept.add(at, rollouts, changed, {"version": 6})
    folder = folder_of(Folder(tmp_path))
    assert [(row["advantage"], row["advantages"], row["mask"]) for row in (*read(folder, 0), *read(folder, 1))] == [
        (1.0, None, [1, 0]),
        (2.0, [1.0, 3.0], [1, 0]),
    ]


def test_completions_that_are_alike_each_have_their_own_advantage(tmp_path):
    rollouts = [some()[0], some()[0]]
    experience = learned(rollouts)
    with Seen(config(), Folder(tmp_path)) as kept:
        kept.add(0, rollouts, experience, {})
    assert [row["advantage"] for row in read(folder_of(Folder(tmp_path)), 0)] == [0.5, -0.5]


def test_a_resumed_run_keeps_each_iteration_once(tmp_path):
    seen(tmp_path, range(5))
    folder = folder_of(Folder(tmp_path))
    again = Seen(config(), Folder(tmp_path))
    for at in (3, 4, 5):
        again.add(at, some(50 + at), learned(some(50 + at)), {})
    # a spike rolled the run back to iteration 4
    again.add(4, some(90), learned(some(90)), {})
    kept = again.finish()
    assert iterations_in(folder) == [0, 1, 2, 3, 4]
    assert [read(folder, at)[0]["tokens"][0] for at in range(5)] == [5, 6, 7, 58, 95]
    assert kept == {"rollouts/00000000-00000004.parquet": 25}
    assert again.finish() == kept, "finished again after a stop between here and the manifest"


def test_a_merge_that_was_stopped_half_way_counts_nothing_twice(tmp_path):
    seen(tmp_path, range(3))
    folder = folder_of(Folder(tmp_path))
    part = folder.read("00000001-00000001.parquet")
    rollout_files.merge(folder)
    folder.write("00000001-00000001.parquet", part)
    assert rollout_files.merge(folder) == {"00000000-00000002.parquet": 15}
    assert [file.name for file in files_in(folder)] == ["00000000-00000002.parquet"]


def test_a_run_that_goes_on_from_behind_its_merge_keeps_what_is_before(tmp_path):
    """It was stopped between the merge and the artifact, and its newest checkpoint is of iteration 3."""
    seen(tmp_path, range(5)).finish()
    assert [(file.first, file.last) for file in files_in(folder_of(Folder(tmp_path)))] == [(0, 4)]
    seen(tmp_path, [3, 4])
    folder = folder_of(Folder(tmp_path))
    assert iterations_in(folder) == list(range(5))
    assert [len(read(folder, at)) for at in range(5)] == [len(read(folder, 0))] * 5


def test_large_files_stay_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(rollout_files, "LARGE", 1)
    kept = seen(tmp_path, range(2))
    assert kept.finish() == {"rollouts/00000000-00000000.parquet": 5, "rollouts/00000001-00000001.parquet": 5}
    assert pq.read_table(folder_of(Folder(tmp_path)).local()).num_rows == 10, "one folder is one data set"


@pytest.mark.parametrize(("keep", "left"), [(0, []), (2, [5, 6]), (None, list(range(7)))])
def test_no_more_than_asked_are_kept(tmp_path, keep, left):
    seen(tmp_path, range(7), keep_rollouts=keep)
    assert iterations_in(folder_of(Folder(tmp_path))) == left


def test_greedy_answers_lie_beside_and_go_with_a_rollback(tmp_path):
    with Seen(config(), Folder(tmp_path)) as kept:
        for at in (0, 2, 4):
            kept.add_held_out(at, some(at)[:2], version=at)
        kept.add(2, some(), learned(some()), {})
    folder = folder_of(Folder(tmp_path))
    assert iterations_in(folder, HELD_OUT) == [0, 2] and iterations_in(folder) == [2]
    assert [row["staleness"] for row in read(folder, 2, HELD_OUT)] == [-2, -2]


def test_a_disk_that_fails_is_told_once_and_counted(tmp_path, capsys):
    (tmp_path / "rollouts").write_text("in the way")
    kept = seen(tmp_path, range(3))
    assert kept.lost == 3
    assert capsys.readouterr().err.count("are not kept") == 1


def test_the_samples_of_a_report_are_escaped_and_pick_what_tells(tmp_path):
    seen(tmp_path, range(40))
    with Seen(config(), Folder(tmp_path)) as kept:
        for at in (0, 39):
            kept.add_held_out(at, some(at)[:2], version=at)
    page = sample_table(Folder(tmp_path))
    assert page.count("<details>") == 6 and "iteration 0:" in page and "iteration 39:" in page
    assert "What is &lt;2 + 2&gt;?" in page and "answer 1: right; length 0.25: short" in page and "not learned from" in page
    assert "raised: a reward raised KeyError" in page and "right answer: 4" in page
    held_out = held_out_table(Folder(tmp_path))
    assert held_out.count("<details>") == 1 and "1.25 → 0.25" in held_out
    assert sample_table(Folder(tmp_path / "none")) == "" == held_out_table(Folder(tmp_path / "none"))


def test_rollouts_of_an_iteration_are_shown_while_the_stage_runs(tmp_path, capsys):
    seen(tmp_path, range(2))
    view.show_rollouts(str(tmp_path), 1)
    said = capsys.readouterr().out
    assert "What is <2 + 2>?" in said and "score 1.25; advantage +0.5; 2 tokens, stop, 2 versions behind" in said
    assert "raised: a reward raised KeyError; not learned from" in said
    with pytest.raises(ArtifactError, match="no rollouts of iteration 7: those of 2 iterations from 0 to 1 are kept"):
        view.show_rollouts(str(tmp_path), 7)
