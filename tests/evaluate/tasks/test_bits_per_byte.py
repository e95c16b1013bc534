"""A model that knows nothing: its bits per byte by hand, and those of gzip and xz."""

from __future__ import annotations

import gzip
import lzma
import math

import numpy as np
import pytest

from raylm.evaluate.instances import means
from raylm.evaluate.lm import LM
from raylm.evaluate.tasks.bits_per_byte import BitsPerByte
from tests.model.tiny import tiny_checkpoint, tiny_model, tiny_tokenizer

TEXT = "A class defines a new type of object; a module is a file of Python code. " * 4


def rows():
    tokens = tiny_tokenizer(300).encode(TEXT)
    return [{"tokens": np.array(tokens[at : at + 20])} for at in range(0, len(tokens) - 20, 20)]


def test_a_uniform_model_needs_log_v_bits_per_token(tmp_path):
    tiny_checkpoint(tmp_path, vocab=300, layers=1)
    blind = tiny_model(vocab=300, layers=1)
    blind.model.embed_tokens.weight.data.zero_()
    blind.save_pretrained(tmp_path)
    found = means(BitsPerByte(rows="rows").grade(LM(str(tmp_path)), rows()))
    text = "".join(tiny_tokenizer(300).decode(row["tokens"]) for row in rows())
    bytes_per_token = len(text.encode()) / sum(len(row["tokens"]) for row in rows())
    assert found["bits_per_byte"] == pytest.approx(math.log2(300) / bytes_per_token, rel=1e-5)


def test_compressors_by_hand(tmp_path):
    tiny_tokenizer(300).save_pretrained(tmp_path)
    text = "".join(tiny_tokenizer(300).decode(row["tokens"]) for row in rows()).encode()
    assert text.decode() in TEXT
    found = BitsPerByte(rows="rows").baselines(rows(), str(tmp_path))
    assert found == {
        "gzip -9": {"bits_per_byte": 8 * len(gzip.compress(text, 9)) / len(text)},
        "xz -9": {"bits_per_byte": 8 * len(lzma.compress(text, preset=9)) / len(text)},
    }


def test_only_so_many_rows_are_read(tmp_path):
    tiny_checkpoint(tmp_path, vocab=300, layers=1)
    card = BitsPerByte(rows="rows", num_rows=2)
    few, all_there = (card.grade(LM(str(tmp_path)), each) for each in (rows(), rows()[:2]))
    assert [one._replace(seconds=0) for one in few] == [one._replace(seconds=0) for one in all_there]
    assert len(few) == 2 and means(few) == means(all_there)
