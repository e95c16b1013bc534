"""Packing: rows one after the other are the documents, nothing added, nothing lost but the counted tail."""

import numpy as np
import pytest

from raylm.core.errors import DataError
from raylm.tokenize.forms.text import Text
from tests.tokenize.samples import TEXTS, table, tokenizer


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


def test_starts_point_behind_each_end(tmp_path):
    coder = tokenizer(tmp_path)
    made = Text(length=16).rows(coder, table(*TEXTS))
    flat = np.array(made.table["tokens"].to_pylist()).reshape(-1)
    starts = [row * 16 + at for row, found in enumerate(made.table["starts"].to_pylist()) for at in found]
    assert starts[0] == 0 and starts[1:] == [at + 1 for at in np.flatnonzero(flat == coder.eos_token_id) if at + 1 < len(flat)]


def test_a_text_that_spells_the_end_token_does_not_end(tmp_path):
    coder = tokenizer(tmp_path)
    made = Text(length=4).rows(coder, table("a <|end|> b <|end|> c " * 5))
    assert coder.eos_token_id not in np.array(made.table["tokens"].to_pylist())[:-1]


def test_too_little_text_gives_no_row_and_says_so(tmp_path):
    made = Text(length=4096).rows(tokenizer(tmp_path), table("short"))
    assert made.table.num_rows == 0 and made.dropped["partial_row"] == 1 and made.sums["bytes"] == 0
    assert Text(length=8).rows(tokenizer(tmp_path), table()).table.num_rows == 0


def test_a_tokenizer_without_an_end_is_refused(tmp_path):
    coder = tokenizer(tmp_path)
    coder.eos_token = None
    with pytest.raises(DataError, match="no end token"):
        Text().check(coder)
