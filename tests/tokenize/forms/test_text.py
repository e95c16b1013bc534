"""Packing: rows one after the other are the documents, nothing added, nothing lost but what is counted."""

import numpy as np
import pytest
from pydantic import ValidationError

from raylm.core.errors import DataError
from raylm.tokenize.forms.text import Text
from tests.tokenize.samples import TEXTS, table, tokenizer


def flat(made) -> np.ndarray:
    return np.array([token for row in made.table["tokens"].to_pylist() for token in row], dtype=np.int32)


def spans(made) -> list[list[int]]:
    """Tokens of each document, put together from the rows by the index."""
    rows = made.table["tokens"].to_pylist()
    return [
        [
            token
            for row, at, count in zip(line["rows"], line["positions"], line["lengths"], strict=True)
            for token in rows[row][at : at + count]
        ]
        for line in made.index.to_pylist()
    ]


@pytest.mark.parametrize("length", [2, 7, 32, 256])
def test_rows_decode_to_the_documents(tmp_path, length):
    coder = tokenizer(tmp_path)
    made = Text(length=length).rows(coder, table(*TEXTS))
    rows = np.array(made.table["tokens"].to_pylist(), dtype=np.int32)
    assert rows.shape == (made.sums["tokens"] // length, length)
    said = coder.decode(rows.reshape(-1)).removesuffix("�")
    assert "<|end|>".join(TEXTS).startswith(said) and made.sums["lost_tokens"] < length
    text = said.replace("<|end|>", "")
    assert 0 <= made.sums["bytes"] - len(text.encode()) < 4


def test_starts_point_at_rows_and_behind_each_end(tmp_path):
    coder = tokenizer(tmp_path)
    made = Text(length=16).rows(coder, table(*TEXTS))
    tokens = flat(made)
    starts = [row * 16 + at for row, found in enumerate(made.table["starts"].to_pylist()) for at in found]
    ends = np.flatnonzero(tokens == coder.eos_token_id) + 1
    assert starts == sorted({*range(0, len(tokens), 16), *ends[ends < len(tokens)].tolist()})


@pytest.mark.parametrize("repeat_bos", [False, True])
def test_best_fit_keeps_every_token_of_every_document(tmp_path, repeat_bos):
    coder = tokenizer(tmp_path)
    bos = [coder.bos_token_id] if repeat_bos else []
    texts = [*TEXTS, "spam and eggs " * 40, ""]
    made = Text(length=32, packing="best_fit", repeat_bos=repeat_bos, buffer=8).rows(coder, table(*texts))
    expected = [[*bos, *coder.encode(text, add_special_tokens=False), coder.eos_token_id] for text in texts]
    assert spans(made) == expected and made.index["num_tokens"].to_pylist() == list(map(len, expected))
    rows, starts = made.table["tokens"].to_pylist(), made.table["starts"].to_pylist()
    assert all(len(row) <= 32 and found[0] == 0 for row, found in zip(rows, starts, strict=True))
    assert sum(len(row) < 31 for row in rows) <= 1
    if repeat_bos:
        assert all(row[at] == coder.bos_token_id for row, found in zip(rows, starts, strict=True) for at in found)
    assert made.sums["lost_tokens"] == 0 and not made.dropped["partial_row"]
    assert made.sums["bytes"] == sum(len(text.encode()) for text in texts)
    assert made.sums["tokens"] == sum(map(len, rows)) == len(rows) * 32 - made.sums["pad_tokens"]


@pytest.mark.parametrize("packing", ["crop", "best_fit"])
def test_the_index_says_what_a_document_is_and_where_its_tokens_are(tmp_path, packing):
    import pyarrow as pa

    coder = tokenizer(tmp_path)
    documents = table(*TEXTS)
    if "meta" in documents.column_names:
        documents = documents.drop_columns("meta")
    documents = documents.append_column("meta", pa.array(['{"url": "a"}'] + [None] * 59, pa.large_string()))
    made = Text(length=32, packing=packing).rows(coder, documents)
    for name in ("id", "source", "start", "end", "meta"):
        assert made.index[name].to_pylist() == documents[name].to_pylist()
    decoded = [coder.decode(tokens).removesuffix("<|end|>") for tokens in spans(made)]
    assert decoded[:-1] == TEXTS[:-1] and TEXTS[-1].startswith(decoded[-1].rstrip("�"))
    cut = sum(tokens for tokens, rows in zip(made.index["num_tokens"].to_pylist(), made.index["rows"].to_pylist(), strict=True)
              if len(rows) > 1)  # fmt: skip
    assert made.sums["cut_tokens"] == cut > 0 and made.sums["pieces"] == sum(map(len, made.index["rows"].to_pylist()))


def test_a_text_that_spells_the_end_token_does_not_end(tmp_path):
    coder = tokenizer(tmp_path)
    made = Text(length=4).rows(coder, table("a <|end|> b <|end|> c " * 5))
    assert coder.eos_token_id not in flat(made)[:-4]


def test_too_little_text_gives_no_row_and_says_so(tmp_path):
    made = Text(length=4096).rows(tokenizer(tmp_path), table("short"))
    assert made.table.num_rows == 0 and made.dropped["partial_row"] == 1 and made.sums["bytes"] == 0
    assert Text(length=8).rows(tokenizer(tmp_path), table()).table.num_rows == 0
    assert Text(length=8, packing="best_fit").rows(tokenizer(tmp_path), table()).table.num_rows == 0
    made = Text(length=4096, packing="best_fit").rows(tokenizer(tmp_path), table("short"))
    assert made.table.num_rows == 1 and made.sums["bytes"] == 5


def test_a_tokenizer_without_an_end_is_refused(tmp_path):
    coder = tokenizer(tmp_path)
    coder.bos_token = None
    with pytest.raises(DataError, match="no bos token to repeat"):
        Text(packing="best_fit", repeat_bos=True).check(coder)
    coder.eos_token = None
    with pytest.raises(DataError, match="no end token"):
        Text().check(coder)
    with pytest.raises(ValidationError, match="needs packing"):
        Text(repeat_bos=True)
