"""What a completion becomes: a text, a text that goes on, a dialogue; and which ones are not kept."""

from __future__ import annotations

import json

import pytest

from raylm.core.storage import Folder
from raylm.data.records import as_dialogue, as_prompt
from raylm.generate.asked import Asked
from raylm.generate.config import Generate
from raylm.generate.shard import document, write_shard

TURNS = [{"role": "user", "content": "Why?"}]
ASKED = Asked("ab12", "raw.txt", 3, 9, '{"url": "u"}', [5, 6], "Why?", TURNS, {"ground_truth": "7"})


def drawn(text="Because.", ends="stop"):
    return {"text": text, "tokens": 4, "finish_reason": ends, "mean_logprob": -0.25}


def config(**table):
    return Generate(**{"stage": "generate", "model": "m", "documents": "d"} | table)


def test_what_a_document_is():
    plain = document(config(), ASKED, 1, drawn())
    assert (plain["id"], plain["text"], plain["record"], plain["meta"]) == ("ab12-1", "Because.", None, '{"url": "u"}')
    assert (plain["source"], plain["start"], plain["end"], plain["row_id"], plain["draw"]) == ("raw.txt", 3, 9, "ab12", 1)
    assert document(config(keep="continuation", chat=False), ASKED, 0, drawn(" So."))["text"] == "Why? So."
    row = json.loads(document(config(keep="dialogue"), ASKED, 0, drawn())["record"])
    assert [(turn["role"], turn["content"]) for turn in as_dialogue(row)] == [("user", "Why?"), ("assistant", "Because.")]
    # it is a prompt again, too, with what a reward checks
    assert as_prompt(row)[1] == "7"


@pytest.mark.parametrize(
    ("table", "completion", "reason"),
    [
        ({}, drawn(" \n"), "empty_completion"),
        ({"cut_off": "reject"}, drawn(ends="length"), "cut_off"),
        ({"sampling": {"structure": {"choice": ["a", "b"]}}}, drawn(ends="length"), "structure_cut_off"),
    ],
)
def test_what_is_not_kept_is_counted(tmp_path, table, completion, reason):
    mark = write_shard(config(**table), Folder(tmp_path), 0, [ASKED, ASKED._replace(rejected="x")], [[drawn(), completion], "x"])
    assert mark["rejected"] == {reason: 1, "x": 1} and mark["shards"] == {"documents-00000.parquet": 1}
    assert mark["sums"]["completion_tokens"] == 8 and mark["sums"]["prompt_tokens"] == 2
    assert len((tmp_path / "rejected-00000.jsonl").read_text().splitlines()) == 2
