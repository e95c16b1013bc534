"""A model that knows nothing: its bits per byte by hand, and those of gzip and xz."""

from __future__ import annotations

import gzip
import lzma
import math

import numpy as np
import pytest
from tokenizers.processors import TemplateProcessing

from raylm.evaluate.encode import encoded_anew
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


def test_the_begin_token_of_rows_that_are_encoded_anew_has_no_bytes():
    """A uniform model needs log2(300) bits for each token of the text; what it begins with is none of it."""
    theirs = ours = tiny_tokenizer(300)
    begun = tiny_tokenizer(300)
    begun.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|bos|> $A".replace("<|bos|>", begun.bos_token), special_tokens=[(begun.bos_token, begun.bos_token_id)]
    )
    found = []
    for tokenizer in (ours, begun):

        class Uniform:
            seconds = [0.0] * 99

            def positions(self):
                return None

            def leave_out(self, reasons):
                assert not any(reasons)

            def logprob_sums(self, rows, masks):
                return [-math.log(300) * (len(row) - 1) for row in rows]

        lm = Uniform()
        lm.tokenizer = tokenizer
        made = encoded_anew([row["tokens"] for row in rows()], theirs, lm)
        lm.seconds = [0.0] * len(made)
        found.append(means(BitsPerByte(rows="rows").grade(lm, made))["bits_per_byte"])
        assert sum(row["bytes"] for row in made) == pytest.approx(sum(len(ours.decode(row["tokens"]).encode()) for row in rows()))
        assert (made[0]["tokens"][0] == begun.bos_token_id) == (tokenizer is begun)
    tokens, size = (
        sum(each)
        for each in zip(*((len(row["tokens"]), len(ours.decode(row["tokens"]).encode())) for row in rows()), strict=True)
    )
    assert found == pytest.approx([math.log2(300) * tokens / size] * 2)
