"""The whole stage with an engine: completions that have their form, and are the same however rows are spread over shards."""

from __future__ import annotations

import pytest

from raylm.core.errors import ConfigError
from raylm.data.shards import read_parquet
from raylm.generate.config import Generate
from raylm.generate.stage import run
from tests.generate.engines import make_texts
from tests.model.tiny import tiny_checkpoint
from tests.stages import context, run_stage

TABLE = {
    "stage": "generate",
    "documents": "texts",
    "max_prompt": 64,
    "max_rejected": 1.0,
    "sampling": {"max_tokens": 12, "n": 2, "seed": 5, "temperature": 1.0, "structure": {"regex": "(yes|no|perhaps) [0-9]{3}"}},
}


def completions(made):
    return {
        row["id"]: (row["completion"], row["completion_tokens"], row["finish_reason"])
        for entry in made.shards("documents-")
        for row in read_parquet(made.folder, entry.path).to_pylist()
    }


# an engine that takes more requests at once is another one, with a start of its own
@pytest.mark.ray
@pytest.mark.vllm
@pytest.mark.parametrize(
    "more",
    [{}, pytest.param({"generator": {"max_num_seqs": None}}, marks=pytest.mark.long)],
    ids=["shards", "shards and batches"],
)
def test_completions_of_an_engine(tmp_path, workers, more):
    import re

    model = str(tiny_checkpoint(tmp_path / "model", vocab=300))
    make_texts(tmp_path)
    made = run_stage(tmp_path, "few", Generate(**TABLE | {"model": model, "rows_per_shard": 6}), workers)
    again = run_stage(tmp_path, "many", Generate(**TABLE | {"model": model} | more), workers)
    found = completions(made)
    # of 20 rows one is too long and one spells a special token
    assert made.facts["rejected"] == {"special_token_in_text": 1, "too_long": 1} and len(found) == 36
    assert all(re.fullmatch("(yes|no|perhaps) [0-9]{3}", text) and ends == "stop" for text, _, ends in found.values())
    assert len({text for text, _, _ in found.values()}) > 12, "each of the two of a row has a seed of its own"
    assert completions(again) == found and len(made.shards("documents-")) == 5 and len(again.shards("documents-")) == 2
    assert made.metrics["completion_tokens"] == sum(tokens for _, tokens, _ in found.values())
    workers.release("generator")


def test_a_model_without_room_is_refused(tmp_path):
    model = str(tiny_checkpoint(tmp_path / "model", vocab=300, max_len=64))
    make_texts(tmp_path)
    cfg = Generate(**TABLE | {"model": model, "sampling": {"max_tokens": 64}})
    with pytest.raises(ConfigError, match="leaves no room for a prompt: the model was made for 64 tokens"):
        run(cfg, context(tmp_path, "none", cfg))
