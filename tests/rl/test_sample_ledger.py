"""The ledger of samples finds what is missing, what is there twice, and what nobody asked."""

from __future__ import annotations

import pytest

from raylm.core.errors import TrainingError
from raylm.core.storage import Folder
from raylm.data.shards import read_parquet
from raylm.inference.completions import VersionSpan
from raylm.rl.order import Ask
from raylm.rl.rollouts import Group
from raylm.rl.sample_ledger import SAMPLES, TRAINED, SampleLedger
from raylm.rl.types import Prompt, Rollout, Score, Trajectory, Unscored


def group(position: int, row: int) -> Group:
    prompt, drawn = (
        Prompt(row, [1], "[]", None),
        Trajectory([5, 6], [0.0] * 2, "", "stop", (VersionSpan(3, 0, 1), VersionSpan(4, 1, 2))),
    )
    rollouts = [Rollout(prompt, drawn, Score(1.0, "")), Rollout(prompt, drawn, None, Unscored("raised", ""))]
    return Group(10 * position + row, Ask(position, row), prompt, 3, 2, 1.0, 0.0, rollouts=rollouts)


def test_every_sample_is_in_it_with_its_versions_and_its_end(tmp_path):
    ledger = SampleLedger(Folder(tmp_path / "work"), Folder(tmp_path / "out"))
    ledger.add(0, [group(0, 7)], {(7, 0): TRAINED}, version=4, step=9)
    assert ledger.finish(1, {Ask(0, 7)}) == 1
    first, second = read_parquet(Folder(tmp_path / "out"), SAMPLES).to_pylist()
    assert first == {
        "iteration": 0, "position": 0, "row": 7, "sample": 0, "outcome": "trained", "lowest": 3, "highest": 4, "version": 4,
        "step": 9, "tokens": 2,
    }  # fmt: skip
    assert second["outcome"] == "raised"


@pytest.mark.parametrize(
    ("asked", "added"), [([(0, 7), (0, 8)], [(0, 7)]), ([(0, 7)], [(0, 7), (0, 8)]), ([(0, 7)], [(0, 7)] * 2)]
)
def test_what_is_lost_or_there_twice_ends_the_run(tmp_path, asked, added):
    ledger = SampleLedger(Folder(tmp_path / "work"), Folder(tmp_path / "out"))
    for pair in added:
        ledger.add(0, [group(*pair)], {}, 0, 0)
    with pytest.raises(TrainingError, match="ledger of samples is not what was asked"):
        ledger.finish(1, {Ask(*pair) for pair in asked})


def test_what_a_checkpoint_does_not_know_is_forgotten(tmp_path):
    ledger = SampleLedger(Folder(tmp_path / "work"), Folder(tmp_path / "out"))
    ledger.add(0, [group(0, 7)], {}, 0, 0)
    ledger.put(1)
    ledger.add(1, [group(1, 2)], {}, 1, 1)
    ledger.put(2)
    again = SampleLedger(Folder(tmp_path / "work"), Folder(tmp_path / "out"))
    again.rewind(1)
    again.add(1, [group(1, 3)], {}, 1, 1)
    again.finish(2, {Ask(0, 7), Ask(1, 3)})
