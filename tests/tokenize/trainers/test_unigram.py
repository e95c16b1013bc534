"""Unigram: expectation-maximization against sums over all segmentations, the same files every time, lossless."""

import filecmp
import math
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from raylm.tokenize.encode import PROBES
from raylm.tokenize.tokenizers import load
from raylm.tokenize.trainers.counts import count_texts
from raylm.tokenize.trainers.lattice import Pieces
from raylm.tokenize.trainers.layout import SPECIALS
from raylm.tokenize.trainers.unigram import Unigram, _digamma
from tests.tokenize.samples import TEXTS

PIECES = [b"a", b"b", b"c", b"ab", b"bc", b"abc", b"ca"]
SCORES = np.log([0.1, 0.2, 0.05, 0.25, 0.15, 0.15, 0.1])
WORDS = {b"abc": 3, b"abcab": 2, b"c": 5, b"cabca": 1}


def _train(at: Path, **fields):
    card = Unigram(**{"vocab_size": 320, **fields})
    card.train(count_texts(TEXTS, card.pre_tokenization(at)), at)


def _segmentations(word):
    if not word:
        return [[]]
    return [[piece, *rest] for piece in PIECES if word.startswith(piece) for rest in _segmentations(word[len(piece) :])]


def _arrays():
    return np.frombuffer(b"".join(WORDS), np.uint8), np.cumsum([0, *map(len, WORDS)]), np.array([*WORDS.values()])


def _score(parts):
    return sum(SCORES[PIECES.index(part)] for part in parts)


def test_expected_and_best_uses_against_all_segmentations():
    pieces, (data, bounds, counts) = Pieces(PIECES, SCORES, 3), _arrays()
    expected, best = Counter(), Counter()
    for word, count in WORDS.items():
        ways = _segmentations(word)
        total = sum(math.exp(_score(way)) for way in ways)
        for way in ways:
            for part in way:
                expected[part] += count * math.exp(_score(way)) / total
        for part in max(ways, key=_score):
            best[part] += count
    np.testing.assert_allclose(pieces.expect(data, bounds, counts.astype(float)), [expected[piece] for piece in PIECES])
    assert pieces.best(data, bounds, counts).tolist() == [best[piece] for piece in PIECES]


def test_a_piece_without_itself():
    parts, bounds = Pieces(PIECES, SCORES, 3).without()
    made = [[PIECES[part] for part in parts[bounds[at] : bounds[at + 1]]] for at in range(len(PIECES))]
    for piece, found in zip(PIECES, made, strict=True):
        others = [way for way in _segmentations(piece) if way != [piece]]
        assert found[::-1] == (max(others, key=_score) if others else [])


def test_digamma():
    # -Euler's constant; digamma(x + 1) = digamma(x) + 1 / x
    assert _digamma(np.array([1.0]))[0] == pytest.approx(-0.5772156649015329, abs=1e-11)
    x = np.array([0.5, 1.5, 3.0, 12.0, 1e9])
    np.testing.assert_allclose(_digamma(x + 1), _digamma(x) + 1 / x, atol=1e-10)


def test_the_same_files_in_any_process_and_size(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
    _train(tmp_path / "a")
    code = (
        "import sys; from pathlib import Path; from tests.tokenize.trainers.test_unigram import _train; _train(Path(sys.argv[1]))"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "b")], check=True, env={"PYTHONPATH": ".", "PYTHONHASHSEED": "7"})
    assert filecmp.cmp(tmp_path / "a" / "tokenizer.json", tmp_path / "b" / "tokenizer.json", shallow=False)
    coder = load(tmp_path / "a")
    assert len(coder) == 320 and coder.convert_ids_to_tokens(list(range(6))) == [*SPECIALS]


@pytest.mark.parametrize("fields", [{}, {"pattern": "gpt4", "digits": 1}])
def test_any_text_comes_back_and_fewer_tokens_than_bytes(tmp_path, fields):
    _train(tmp_path, **fields)
    coder = load(tmp_path)
    for text in [*TEXTS[:3], *PROBES, "<|pad|> is text"]:
        ids = coder.encode(text, add_special_tokens=False)
        assert coder.decode(ids) == text
    sizes = [(len(coder.encode(text)), len(text.encode())) for text in TEXTS]
    assert sum(tokens for tokens, _ in sizes) < 0.6 * sum(count for _, count in sizes)
