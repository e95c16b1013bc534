"""tokenize end to end: every form from one tokenizer, the same bytes for any workers and after a break."""

import json
from pathlib import Path

import numpy as np
import pytest

from raylm.core.config import references
from raylm.core.errors import DataError
from raylm.core.storage import Folder
from raylm.data.records import is_held_out
from raylm.data.shards import Rows, read_parquet
from raylm.data.sources.python_questions import KINDS
from raylm.prepare.config import Prepare
from raylm.tokenize.config import Tokenize
from raylm.tokenize.tokenizers import load
from tests.stages import payload, run_stage, tables_of

pytestmark = pytest.mark.ray

BPE = {"kind": "bpe", "vocab_size": 512}


@pytest.fixture(scope="module")
def root(tmp_path_factory, workers):
    """Documents of the library and of questions, and Tokens made from them."""
    at = tmp_path_factory.mktemp("job")
    run_stage(at, "docs", Prepare(source={"kind": "python_library", "max_bytes": 400_000}), workers)
    run_stage(at, "questions", Prepare(source={"kind": "python_questions", "num_rows": 200}), workers)
    cfg = Tokenize(documents="docs", tokenizer=BPE, form={"kind": "text", "length": 128}, held_out=0.1, workers={"count": 2})
    run_stage(at, "tokens", cfg, workers)
    return at


def _open(root, name):
    from raylm.core.artifact import open_artifact

    return open_artifact(Folder(root / name))


def test_facts_count_what_is_there(root):
    made = _open(root, "tokens")
    facts = made.facts
    train, held_out = Rows.open(made.uri, "train"), Rows.open(made.uri, "held_out")
    assert facts["rows"] == {"train": len(train), "held_out": len(held_out)} and len(held_out) > 0
    assert facts["num_tokens"] == len(train) * 128 and facts["held_out_tokens"] == len(held_out) * 128
    assert facts["vocab_size"] == 512 and (facts["pad_token_id"], facts["bos_token_id"], facts["eos_token_id"]) == (0, 1, 2)
    assert train[0]["tokens"].dtype == np.int32 and max(train[at]["tokens"].max() for at in range(len(train))) < 512
    coder = load(root / "tokens" / "tokenizer")
    size = sum(len(coder.decode(held_out[at]["tokens"], skip_special_tokens=True).encode()) for at in range(len(held_out)))
    # a character that a row's edge cuts in two decodes to replacement marks
    assert abs(facts["held_out_bytes"] - size) <= 9 * len(held_out)
    assert sum(facts["documents"].values()) == _open(root, "docs").facts["rows"]


def test_other_workers_and_a_break_give_the_same_bytes(root, workers):
    cfg = Tokenize(documents="docs", tokenizer=BPE, form={"kind": "text", "length": 128}, held_out=0.1, workers={"count": 1})
    first = run_stage(root, "again", cfg, workers)
    assert payload(first) == payload(_open(root, "tokens"))
    out = Folder(root / "again")
    out.remove("manifest.json")
    out.remove(first.shards("train-")[0].path)
    out.write(".writing-left", "half")
    assert payload(run_stage(root, "again", cfg, workers)) == payload(first)


def test_the_forms_share_one_tokenizer_and_one_split(root, workers):
    held = {}
    for form in ("dialogues", "pairs", "prompts"):
        cfg = Tokenize(documents="questions", tokenizer="tokens", form={"kind": form}, held_out=0.1)
        made = run_stage(root, form, cfg, workers)
        assert made.kind == form.capitalize() and made.facts["dropped"] == {} and sum(made.facts["rows"].values()) == 200
        assert {name: digest for name, digest in payload(made).items() if name.startswith("tokenizer/")} == {
            name: digest for name, digest in payload(_open(root, "tokens")).items() if name.startswith("tokenizer/")
        }
        rows = Rows.open(made.uri, "held_out")
        held[form] = {rows[at]["id"] for at in range(len(rows))}
    assert held["dialogues"] == held["pairs"] == held["prompts"] and all(is_held_out(id, 0.1) for id in held["pairs"])
    row = Rows.open(str(root / "prompts"), "train")[0]
    assert row["truth"] in KINDS and json.loads(row["messages"])[0]["role"] == "user"


def test_the_tokenizer_is_trained_on_the_train_split_alone(root, workers):
    docs = _open(root, "docs")
    table = read_parquet(docs.folder, docs.shards("documents-")[0].path)
    assert any(is_held_out(id, 0.1) for id in table["id"].to_pylist())
    from raylm.tokenize.tokenizers import _sample

    texts = set(_sample(docs, 1 << 30, 0.1))  # type: ignore[arg-type]
    for id, text in zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True):
        assert (text in texts) != is_held_out(id, 0.1)
    assert sum(len(text) for text in _sample(docs, 1000, 0.1)) < 400_000  # type: ignore[arg-type]


def test_a_folder_outside_is_a_tokenizer_and_what_does_not_fit_is_refused(root, workers):
    outside = str(root / "tokens" / "tokenizer")
    made = run_stage(root, "outside", Tokenize(documents="docs", tokenizer=outside, form={"kind": "text", "length": 64}), workers)
    assert made.facts["vocab_size"] == 512
    with pytest.raises(DataError, match=r"no pairs row comes out of \d+ documents: missing_column: chosen"):
        run_stage(root, "none", Tokenize(documents="docs", tokenizer="tokens", form={"kind": "pairs"}), workers)
    cfg = Tokenize(documents="docs", tokenizer=str(root / "no" / "such"), form={"kind": "text"})
    with pytest.raises(DataError, match="cannot load a tokenizer"):
        run_stage(root, "none2", cfg, workers)


def test_the_tokenizer_reference_is_typed():
    cfg = Tokenize(documents="docs", tokenizer="tokens", form={"kind": "text"})
    assert [(ref.path, ref.value) for ref in references(cfg)] == [(("documents",), "docs"), (("tokenizer",), "tokens")]
    assert "Checkpoint" in [*references(cfg)][1].kinds
    assert [ref.value for ref in references(Tokenize(documents="docs", tokenizer=BPE, form={"kind": "text"}))] == ["docs"]


def test_the_job_of_the_readme_is_valid():
    tables = tables_of(Path(__file__).parents[2] / "raylm" / "tokenize" / "README.md")
    assert [Tokenize.model_validate(table).stage for table in tables.values()] == ["tokenize"] * 2
