"""Decontamination: questions and answers of real files, stages and structured rows; what is said of each; refusals."""

import json
import pickle

import pyarrow as pa
import pytest

from raylm.core.artifact import Checkpoint, Documents
from raylm.core.config import references
from raylm.core.errors import ArtifactError, DataError
from raylm.data.records import document, meta_of, read_row
from raylm.data.shards import write_parquet
from raylm.data.sources.units import table_of as rows_table
from raylm.prepare.filters.decontaminate import Decontaminate
from tests.stages import context

QUESTION = "A train leaves the station at noon and travels at sixty miles per hour; how far has it gone by four o'clock?"
ANSWER = "It travels for four hours at sixty miles per hour, so it has gone two hundred and forty miles in all."
SHORT = "Who wrote the old book of the red river?"
ROWS = [{"question": QUESTION, "answer": ANSWER}, {"question": SHORT, "answer": "Ann"}, {"question": "Why?", "answer": "So."}]


def table_of(texts):
    return pa.table({"text": pa.array(texts, pa.large_string())})


@pytest.fixture
def exam(tmp_path):
    path = tmp_path / "exam.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return {"kind": "jsonl", "glob": str(path), "text_column": "question"}


def reasons(card, texts):
    return list(card.judge(table_of(texts)).reasons)


def test_questions_and_answers(exam):
    card = Decontaminate(against=[exam])
    texts = [
        f"Seen on the web. {QUESTION.upper()} Answer below.",
        "he said: it travels for four hours at sixty miles per hour so it has GONE, which is right",
        "the train leaves the station at noon and travels at sixty kilometres per hour",
        f"A forum: {SHORT.replace('?', '!')} I forget.",
        "who wrote the old book of the red sea",
        "Ann. Why? So.",
        "",
    ]
    assert reasons(card, texts) == ["contaminated", "contaminated", "", "contaminated", "", "", ""]
    assert card.facts() == {"questions": 2, "answers": 1, "short_questions": 1, "short_answers": 2}


def test_what_the_report_shows_of_it(exam):
    card = Decontaminate(against=[exam])
    said = card.explain(
        table_of([f"x {QUESTION} y", "at sixty miles per hour so it has gone two hundred and forty, yes", "clean"])
    )
    path = exam["glob"]
    assert said[0]["set"] == path and said[0]["item"] == f"{path}:0" and said[0]["part"] == "question" and said[0]["share"] == 1
    assert said[1]["part"] == "answer" and said[1]["share"] == pytest.approx(1 / 9, abs=1e-4)
    assert said[1]["shared"] == "at sixty miles per hour so it has gone two hundred and forty"
    assert said[2] == {}


def test_a_share_of_the_runs_may_be_allowed(exam):
    text = "at sixty miles per hour so it has gone two hundred and forty, yes"
    assert reasons(Decontaminate(against=[exam], max_share=0.2), [text, ANSWER]) == ["", "contaminated"]
    assert reasons(Decontaminate(against=[exam], max_share=0.1), [text]) == ["contaminated"]


def test_structured_rows(tmp_path):
    path = tmp_path / "chat.jsonl"
    turns = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]
    rows = [{"messages": turns}, {"prompt": SHORT, "answer": " ".join(map(str, range(20)))}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    card = Decontaminate(against=[{"kind": "jsonl", "glob": str(path)}])
    assert reasons(card, [QUESTION, ANSWER, SHORT, "Count: " + ", ".join(map(str, range(15)))]) == ["contaminated"] * 4
    assert card.facts() == {"questions": 2, "answers": 2, "short_questions": 0, "short_answers": 0}
    assert [said["part"] for said in card.explain(table_of([QUESTION, ANSWER]))] == ["question", "answer"]


def test_a_stage_is_placed(tmp_path):
    ctx = context(tmp_path, "exam")
    rows = [document("raw.jsonl", at, at + 1, row["question"], None, meta_of(row, ("question",))) for at, row in enumerate(ROWS)]
    write_parquet(ctx.out, "documents-000000-00000.parquet", rows_table(rows))
    made = ctx.commit(Documents, facts={}, rows={"documents-000000-00000.parquet": len(rows)})
    card = Decontaminate(against=["exam", {"kind": "documents", "documents": "exam"}])
    assert [(found.value, found.kinds) for found in references(card)] == [("exam", ("Documents",))] * 2
    placed = pickle.loads(pickle.dumps(card.placed(context(tmp_path, "corpus").open)))
    assert placed.against == [made.uri, made.uri]
    assert reasons(placed, [QUESTION, "clean"]) == ["contaminated", ""]
    assert placed.explain(table_of([ANSWER]))[0]["item"] == "raw.jsonl:0"


def test_only_documents_can_be_placed(tmp_path):
    ctx = context(tmp_path, "model")
    ctx.out.write("config.json", "{}")
    ctx.commit(Checkpoint, facts={})
    with pytest.raises(ArtifactError, match="this is a Checkpoint"):
        Decontaminate(against=["model"]).placed(ctx.open)


def test_a_relative_glob_is_placed(exam, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    card = Decontaminate(against=[exam | {"glob": "exam.jsonl"}]).placed(context(tmp_path, "x").open)
    assert card == Decontaminate(against=[exam])


def test_refusals(tmp_path, exam):
    path = tmp_path / "broken.jsonl"
    path.write_text('{"question": "a b c d e f g"}\n{"quest": "b"}\n')
    with pytest.raises(DataError, match="cannot be read: missing_column; it has the columns quest"):
        reasons(Decontaminate(against=[exam | {"glob": str(path)}]), ["a"])
    path.write_text('{"question": "why"}\n')
    with pytest.raises(DataError, match="nothing to look for"):
        reasons(Decontaminate(against=[exam | {"glob": str(path)}], ngram=5), ["a"])


SYSTEM = "You are a careful assistant that answers every question of the user as briefly and as well as it can, in plain words."
ASKS = [
    f"how many {thing} are on the {colour} table of the {room} where the old clock hangs beside the door"
    for thing, colour, room in zip(
        ["cups", "pens", "keys", "maps"], ["red", "blue", "green", "white"], ["hall", "shop", "barn", "loft"], strict=True
    )
]


def _found(tmp_path, exam_rows, rows, **options):
    # read once in a process
    path = tmp_path / f"exam-{len(list(tmp_path.iterdir()))}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in exam_rows))
    table = rows_table([read_row(row, None, "docs", at, at + 1) for at, row in enumerate(rows)])
    return [
        reason != "" for reason in Decontaminate(against=[{"kind": "jsonl", "glob": str(path)}], **options).judge(table).reasons
    ]


def _asked(question, answer="none", role="system"):
    turns = [{"role": role, "content": SYSTEM}, {"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": turns}


def test_a_shared_system_prompt_is_no_contamination(tmp_path):
    rows = [_asked(question) for question in ASKS]
    assert _found(tmp_path, [_asked(ASKS[0])], rows) == [True, False, False, False]
    assert _found(tmp_path, [_asked(ASKS[0], role="developer")], [_asked(ASKS[1], role="developer")]) == [False]
    # whoever asks the system's words as a question has asked it
    assert _found(tmp_path, [_asked(SYSTEM)], [_asked(ASKS[1]), _asked(SYSTEM), {"text": SYSTEM}]) == [False, True, True]
    # answers are looked for in pairs and prompts too
    pair = {"prompt": _asked(ASKS[1])["messages"][:2], "chosen": f"so {ASKS[0]} yes", "rejected": "no"}
    assert _found(tmp_path, [_asked(ASKS[0])], [pair]) == [True]
    # and in what is thought and called, of a rejected answer as well
    call = {"role": "assistant", "tool_calls": [{"name": "search", "arguments": {"words": ASKS[0]}}]}
    for answer in (call, {"role": "assistant", "content": "no", "reasoning_content": ASKS[0]}):
        assert _found(tmp_path, [_asked(ASKS[0])], [{**pair, "chosen": "yes", "rejected": [answer]}]) == [True]
        assert _found(tmp_path, [_asked(ASKS[0])], [{"messages": [*_asked(ASKS[1])["messages"][:2], answer]}]) == [True]


def test_a_shared_instruction_is_no_contamination(tmp_path):
    def alpaca(question):
        return {"instruction": SYSTEM, "input": question, "output": "none"}

    assert _found(tmp_path, [alpaca(ASKS[0])], [alpaca(question) for question in ASKS]) == [True, False, False, False]
    # an instruction without an input is the question
    alone = {"instruction": SYSTEM, "input": "", "output": "none"}
    assert _found(tmp_path, [alone], [alone, alpaca(ASKS[1])]) == [True, True]


def test_what_many_items_have_in_common_is_no_question(tmp_path):
    exam_rows = [{"text": f"{SYSTEM} {question}"} for question in ASKS]
    rows = [{"text": f"{SYSTEM} Something else."}, {"text": f"{SYSTEM} {ASKS[2]}"}, {"text": ASKS[3]}]
    assert _found(tmp_path, exam_rows, rows) == [False, True, True]
    assert _found(tmp_path, exam_rows, rows, max_item_share=1.0) == [True, True, True]
    # the same item several times is one
    assert _found(tmp_path, [{"text": ASKS[0]}] * 9 + exam_rows, [{"text": ASKS[0]}]) == [True]


def test_another_sum_is_another_question(tmp_path):
    exam_rows = [{"text": "Compute 12 + 5 - 3 * 8 / 2 = ?"}]
    rows = [{"text": "compute 12 - 5 + 3 / 8 * 2 ="}, {"text": "Please compute 12 + 5 - 3 * 8 / 2 = ? now"}]
    assert _found(tmp_path, exam_rows, rows) == [False, True]
