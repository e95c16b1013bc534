"""Extending: what was there keeps its ids and merges, the new domain takes fewer tokens, old text still comes back."""

import filecmp
import json

import pytest
from pydantic import ValidationError

from raylm.core.config import references
from raylm.core.errors import DataError
from raylm.tokenize.config import Tokenize
from raylm.tokenize.encode import PROBES, encoder
from raylm.tokenize.tokenizers import load
from raylm.tokenize.trainers.counts import count_texts
from raylm.tokenize.trainers.extend import Extend
from raylm.tokenize.trainers.unigram import Unigram
from raylm.tokenize.trainers.word_piece import WordPiece
from tests.tokenize.samples import TEXTS, tokenizer, turn

DOMAIN = [f"Acetylsalicylic acid inhibits cyclooxygenase-{at % 3} in thrombocytes; dose {at} mg." for at in range(50)]


def _extend(at, texts=DOMAIN, **fields):
    card = Extend(base="x/y", **fields)
    pattern = card.pre_tokenization(at)
    card.train(None if pattern is None else count_texts(texts, pattern), at)
    return load(at)


def _size(coder, texts):
    return sum(len(coder.encode(text, add_special_tokens=False)) for text in texts)


@pytest.mark.parametrize("pattern", ["gpt2", "gpt4"])
def test_old_ids_stay_and_the_domain_takes_fewer_tokens(tmp_path, pattern):
    base = tokenizer(tmp_path, pattern=pattern)
    old, before = base.get_vocab(), json.loads((tmp_path / "tokenizer.json").read_text())["model"]["merges"]
    made = _extend(tmp_path, vocab_size_added=40)
    assert len(made) == len(base) + 40
    assert {token: id for token, id in made.get_vocab().items() if id < len(base)} == old
    merges = json.loads((tmp_path / "tokenizer.json").read_text())["model"]["merges"]
    assert merges[: len(before)] == before and len({tuple(merge) for merge in merges}) == len(merges)
    assert _size(made, DOMAIN) < 0.5 * _size(base, DOMAIN) and _size(made, TEXTS) <= _size(base, TEXTS)
    for text in [*TEXTS[:3], *PROBES, DOMAIN[0]]:
        assert made.decode(made.encode(text, add_special_tokens=False)) == text
    assert made.apply_chat_template([turn("user", "Hi")], tokenize=False) == "<|bos|><|user|>Hi<|end|>"
    assert encoder(made, DOMAIN).name == "gigatoken"


def test_new_tokens_are_what_the_base_leaves(tmp_path):
    base = tokenizer(tmp_path)
    made = _extend(tmp_path, ["zqzq zqzq"] * 5, vocab_size_added=3)
    assert made.convert_ids_to_tokens(range(len(base), len(made))) == ["zq", "zqzq", "Ġzqzq"]


def test_words(tmp_path):
    base = tokenizer(tmp_path)
    made = _extend(tmp_path, words=["thrombocyte", "naïve"])
    for word in ("thrombocyte", " thrombocyte", "naïve", " naïve"):
        assert len(made.encode(word, add_special_tokens=False)) == 1
    assert {token: id for token, id in made.get_vocab().items() if id < len(base)} == base.get_vocab()
    with pytest.raises(DataError, match="'two words' cannot be one token"):
        _extend(tmp_path, words=["two words"])


def test_the_same_files_every_time(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        tokenizer(tmp_path / name)
        _extend(tmp_path / name, vocab_size_added=50)
    assert filecmp.cmp(tmp_path / "a" / "tokenizer.json", tmp_path / "b" / "tokenizer.json", shallow=False)


@pytest.mark.parametrize("card", [Unigram(vocab_size=400), WordPiece(vocab_size=600)])
def test_what_cannot_be_extended(tmp_path, card):
    card.train(count_texts(TEXTS, card.pre_tokenization(tmp_path)), tmp_path)
    with pytest.raises(DataError, match="only a byte-level BPE tokenizer"):
        _extend(tmp_path, vocab_size_added=5)


def test_the_base_is_a_reference():
    cfg = Tokenize(documents="d", tokenizer={"kind": "extend", "base": "t", "vocab_size_added": 9}, form={"kind": "text"})
    assert [(ref.path, ref.value) for ref in references(cfg)] == [(("documents",), "d"), (("tokenizer", "base"), "t")]
    for fields in ({}, {"vocab_size_added": 1, "words": ["a"]}, {"words": []}):
        with pytest.raises(ValidationError, match="either vocab_size_added or words"):
            Extend(base="t", **fields)
