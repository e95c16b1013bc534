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
from raylm.model.chat_template import sha256_of
from raylm.prepare.config import Prepare
from raylm.tokenize.config import Tokenize
from raylm.tokenize.tokenizers import load
from raylm.tokenize.trainers.layout import CHAT_TEMPLATE
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
        assert made.facts["chat_template_sha256"] == sha256_of(CHAT_TEMPLATE)
        assert {name: digest for name, digest in payload(made).items() if name.startswith("tokenizer/")} == {
            name: digest for name, digest in payload(_open(root, "tokens")).items() if name.startswith("tokenizer/")
        }
        rows = Rows.open(made.uri, "held_out")
        held[form] = {rows[at]["id"] for at in range(len(rows))}
    assert held["dialogues"] == held["pairs"] == held["prompts"] and all(is_held_out(id, 0.1) for id in held["pairs"])
    row = Rows.open(str(root / "prompts"), "train")[0]
    assert row["ground_truth"] in KINDS and json.loads(row["messages"])[0]["role"] == "user"


def test_the_tokenizer_is_trained_on_the_train_split_alone(root, workers):
    docs, facts = _open(root, "docs"), _open(root, "tokens").facts
    rows = [row for entry in docs.shards("documents-") for row in read_parquet(docs.folder, entry.path).to_pylist()]
    train = [row["text"] for row in rows if not is_held_out(row["id"], 0.1)]
    assert len(train) < len(rows) and facts["trained_on_bytes"] == sum(len(text.encode()) for text in train)
    assert facts["num_pretokens"] > facts["num_distinct_pretokens"] > 0 == facts["rare_pretokens_left_out"]


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


@pytest.mark.parametrize("packing", ["crop", "best_fit"])
def test_rows_lead_to_documents_and_documents_to_rows(root, workers, packing):
    from raylm.data.lineage import documents_of, rows_of

    form = {"kind": "text", "length": 128, "packing": packing}
    made = run_stage(root, packing, Tokenize(documents="docs", tokenizer="tokens", form=form, held_out=0.1), workers)
    docs = _open(root, "docs")
    texts = {row["id"]: row for entry in docs.shards("documents-") for row in read_parquet(docs.folder, entry.path).to_pylist()}
    coder, rows = load(root / "tokens" / "tokenizer"), Rows.open(made.uri, "train")
    for number in (0, len(rows) // 2, len(rows) - 1):
        row, found = rows[number], documents_of(made.uri, "train", number)
        assert [each["position"] for each in found] == row["starts"].tolist()
        assert sum(each["length"] for each in found) == len(row["tokens"])
        for each in found:
            said = coder.decode(row["tokens"][each["position"] : each["position"] + each["length"]]).removesuffix("<|end|>")
            assert said.strip("�") in texts[each["id"]]["text"] and each["source"] == texts[each["id"]]["source"]
            place = {"row": number, "position": each["position"], "length": each["length"]}
            assert place in rows_of(made.uri, "train", each["id"])
    facts = made.facts["packing"]
    assert facts["kind"] == packing and facts["documents_per_row"] >= 1 and facts["pad_share"] < 0.01
    assert 0 < facts["crop_share"] <= 1
    if packing == "best_fit":
        assert facts["crop_share"] < _open(root, "crop").facts["packing"]["crop_share"] and made.facts["lost_tokens"] == 0
