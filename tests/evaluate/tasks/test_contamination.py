"""Items of other tasks in the rows that a model was trained on, through its lineage."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest

from raylm.core.artifact import Checkpoint, InputEntry, Prompts, Tokens, open_artifact
from raylm.core.errors import DataError
from raylm.core.storage import Folder
from raylm.data.lineage import index_name, index_schema
from raylm.data.shards import shard_name, write_arrow, write_parquet
from raylm.evaluate.config import Evaluate
from raylm.evaluate.examinations import Examinations
from raylm.evaluate.examine import Mark
from raylm.evaluate.instances import Graded, means
from raylm.evaluate.tasks.contamination import Contamination
from raylm.trainer.ledger import LEDGER
from tests.model.tiny import tiny_tokenizer
from tests.rows import make_rows
from tests.stages import context

TEXTS = [f"Thing number {at} is known to all who ever read the {at}th page of the old book of things." for at in range(8)]


def made(root, name, inputs, ledger=None):
    ctx = context(root, name)
    ctx._inputs = [InputEntry(name=key, uri=uri, fingerprint="x", kind=kind) for key, uri, kind in inputs]
    if ledger:
        columns = ("step", "data_step", "row", "trained", "part")
        write_parquet(ctx.out, LEDGER, pa.Table.from_pylist([dict(zip(columns, row, strict=True)) for row in ledger]))
    return ctx.commit(Checkpoint, facts={}, variant="causal")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Base learned from row 0 of packed tokens, of documents 0 and 1, and not from row 1; the policy from prompt 5 of 5 and 6."""
    at, tokenizer = tmp_path_factory.mktemp("job"), tiny_tokenizer(300)
    parts = [tokenizer.encode(text) for text in TEXTS[:4]]
    ctx, name = context(at, "tokens"), shard_name("train", 0, "arrow")
    rows = [[*parts[0], 2, *parts[1], 2], [*parts[2], 2, *parts[3], 2]]
    write_arrow(ctx.out, name, pa.Table.from_pylist([{"tokens": row} for row in rows]))
    lines = [
        {"id": f"d{at}", "source": "book", "start": 0, "end": 1, "meta": None, "num_tokens": len(part), "rows": [at // 2],
         "positions": [0 if at % 2 == 0 else len(parts[at - 1]) + 1], "lengths": [len(part) + 1]}
        for at, part in enumerate(parts)
    ]  # fmt: skip
    write_parquet(ctx.out, index_name(name), pa.Table.from_pylist(lines, schema=index_schema()))
    tokenizer.save_pretrained(ctx.out.path("tokenizer"))
    ctx.commit(Tokens, facts={"vocab_size": 300}, rows={name: 2, index_name(name): 4})
    prompts = [{"tokens": tokenizer.encode(text), "messages": "[]", "ground_truth": None} for text in TEXTS[5:7]]
    make_rows(at, "prompts", Prompts, prompts, held_out=0)
    base = made(at, "base", [("rows", str(at / "tokens"), "Tokens")], [(0, 0, 0, True, 0), (1, 1, 1, False, 0)])
    began = [("model", base.uri, "Checkpoint"), ("rewards.0.model", "hub/judge", "Checkpoint")]
    made(at, "policy", [*began, ("prompts", str(at / "prompts"), "Prompts")], [(0, 0, 0, True, 0)])
    made(at, "compressed", [("model", str(at / "policy"), "Checkpoint")])
    made(at, "stranger", [("model", "hub/model", "Checkpoint"), ("rows", str(at / "tokens"), "Tokens")], [(0, 0, 0, True, 0)])
    made(at, "foreign", [("model", "hub/model", "Checkpoint")])
    return at


def items(right=(1, 1, 1, 1, 1, 1, 1, 0)):
    return [
        Graded(f"i{at}", {"acc": float(right[at])}, {"acc": 1.0}, {}, f"{text}\n(ground truth: yes)")
        for at, text in enumerate(TEXTS)
    ]


def looked(root, model, tasks=None):
    from raylm.core.artifact import open_artifact

    return Contamination().look(open_artifact(Folder(root / model)), tasks or {"quiz": items()})


def test_items_are_found_in_what_was_trained_on_and_in_nothing_else(root):
    graded, told = looked(root, "compressed")
    assert told == [] and len(graded) == 8
    assert [one.values["contamination"] for one in graded] == [1, 1, 0, 0, 0, 1, 0, 0]
    assert means(graded) == {"contamination": 0.375}
    assert (graded[0].facts["source"], graded[0].output.splitlines()[1]) == ("book", "1.00 of it in book#d0")
    assert graded[1].output.splitlines()[1:] == ["1.00 of it in book#d1"]
    assert graded[5].output.splitlines()[1] == f"1.00 of it in {root / 'prompts'} row 0"
    assert [one.values["contamination"] for one in looked(root, "base")[0]] == [1, 1, 0, 0, 0, 0, 0, 0]


def test_metrics_with_and_without_contaminated_items(root):
    tasks = {
        "quiz": items(),
        "other": [Graded("o", {"acc": 1.0}, {"acc": 1.0}, {}, "A question that nobody has ever asked before.")],
    }
    graded, _ = looked(root, "policy", tasks)
    told = Contamination().compared(graded, tasks, {"quiz": means, "other": means})
    assert told == ["3 of 8 items of quiz are contaminated: acc 0.8750, without them 0.8000"]


def test_the_stage_asks_it_after_the_other_tasks(root):
    tasks = [{"kind": "answers", "rows": "prompts"}, {"kind": "contamination"}]
    cfg = Evaluate(stage="evaluate", models=["policy", "foreign"], tasks=tasks, untrained=False)
    asked = Examinations(cfg, list(cfg.tasks), context(root, "report"))
    for model in cfg.models:
        asked._marks.keep(model, "answers", items())
        asked._marks.write(model, 0, Mark({"answers": 0.875}, ""))
    asked.by_instances()
    assert asked.grades() == {"policy": {"answers": 0.875, "contamination": 0.375}, "foreign": {"answers": 0.875}}
    assert asked.missing == {} and asked.notes() == [
        "policy in contamination: 3 of 8 items of answers are contaminated: acc 0.8750, without them 0.8000",
        "foreign in contamination: nothing is known of what it learned from: hub/model",
    ]
    assert [one.facts["item"] for one in asked.graded()["policy"]["contamination"]] == [f"i{at}" for at in range(8)]


def test_what_is_not_known_is_said(root):
    graded, told = looked(root, "stranger", {"quiz": [*items(), items()[0]._replace(id="short", asked="What is it?")]})
    assert told == [
        "what hub/model learned from before is not known",
        "of 1 items nothing can be said: they have fewer than 5 words of their own",
    ]
    assert len(graded) == 8
    with pytest.raises(DataError, match="nothing is known of what it learned from: hub/model"):
        looked(root, "foreign")


def test_a_part_of_an_item_is_a_share(root):
    half = f"{TEXTS[0]} {' '.join(f'word{at}' for at in range(40))}"
    graded, _ = looked(root, "base", {"quiz": [Graded("i", {}, {}, {}, half)]})
    assert 0 < float(graded[0].facts["share"]) < 0.5 and graded[0].values["contamination"] == 0.0
    assert json.loads(json.dumps(graded[0].facts))["source"] == "book"


def test_an_item_that_was_learned_from_in_other_words_is_found_by_what_is_left_of_it(root):
    """Every eleventh word is another one: no run of 13 words is left, and more than half of the runs of 5."""
    words = [f"w{at}" for at in range(66)]
    changed = ["other" if at % 11 == 10 else word for at, word in enumerate(words)]
    tokenizer = tiny_tokenizer(300)
    rows = [{"tokens": tokenizer.encode(" ".join(changed)), "messages": "[]", "ground_truth": None}]
    make_rows(root, "reworded", Prompts, rows, held_out=0)
    made(root, "near", [("prompts", str(root / "reworded"), "Prompts")], [(0, 0, 0, True, 0)])
    quiz = {"quiz": [Graded("i", {}, {}, {}, " ".join(words)), Graded("j", {}, {}, {}, " ".join(f"v{at}" for at in range(66)))]}
    (found, other), _ = looked(root, "near", quiz)
    assert found.values["contamination"] == 1.0 and found.facts["share"] == "0.000" and "near" not in other.facts
    # 62 runs of 5 words, of which each of the 6 other words takes 5, the last one (at the end) 1
    assert found.facts["near"] == f"{(62 - 26) / 62:.3f}" and other.values["contamination"] == 0.0
    assert found.output.splitlines()[1] == f"a near duplicate: 0.58 of its runs of 5 words in {root / 'reworded'} row 0"
    checkpoint = open_artifact(Folder(root / "near"))
    assert Contamination(near=0.7).look(checkpoint, quiz)[0][0].values["contamination"] == 0.0
