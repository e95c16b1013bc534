"""Counting pre-tokens: equal to the library's own on random Unicode, for any memory and any batches."""

import random
from collections import Counter

import pyarrow as pa
import pytest

from raylm.tokenize.trainers.pattern import Pattern, byte_characters
from raylm.tokenize.trainers.table import WordTable

LETTERS = " \t\n\r\u00a0\u2028\u3000'\u2019sStTrReEvVlLmMdD\u017fK1234٣½Ⅻaäßé日本한🦜👩‍👩‍👧_-=.,!\u0301\u200b\x00\x85\x1c"
BYTES = {character: byte for byte, character in enumerate(byte_characters())}


def _texts():
    chosen = random.Random(0)
    texts = ["".join(chosen.choice(LETTERS) for _ in range(chosen.randint(0, 40))) for _ in range(3000)]
    points = [*range(0xD800), *range(0xE000, 0x110000)]
    return texts + ["".join(chr(chosen.choice(points)) for _ in range(20)) for _ in range(1000)]


def ours(texts, pattern, most=1 << 20, batch=1 << 20):
    found, spills = Counter(), []

    def spill(hashes, words, counts):
        assert len(hashes) == len(words) == len(counts) <= most
        spills.append(len(words))
        for word, count in zip(words.to_pylist(), counts.tolist(), strict=True):
            found[word] += count

    table = WordTable(pattern, most, spill)
    for at in range(0, len(texts), batch):
        table.add(pa.array(texts[at : at + batch], pa.large_string()))
    table.flush()
    assert table.num_tokens == sum(found.values()) and table.num_bytes == sum(len(text.encode()) for text in texts)
    return found, spills


def theirs(texts, pattern):
    cut = pattern.pre_tokenizer()
    words = (word for text in texts for word, _ in cut.pre_tokenize_str(text))
    return Counter(bytes(BYTES[character] for character in word) for word in words)


@pytest.mark.parametrize("name", ["gpt2", "gpt4"])
@pytest.mark.parametrize("digits", [None, 1, 3])
def test_equal_to_the_library(name, digits):
    pattern = Pattern.of(name, digits)
    assert ours(_texts(), pattern)[0] == theirs(_texts(), pattern)


def test_by_hand():
    found, _ = ours(["It's  12345\n\nok OK'S"], Pattern.of("gpt4", None))
    assert found == Counter([b"It", b"'s", b" ", b" ", b"123", b"45", b"\n\n", b"ok", b" OK", b"'S"])
    found, _ = ours(["It's  12345\n\nok OK'S"], Pattern.of("gpt2", None))
    assert found == Counter([b"It", b"'s", b" ", b" 12345", b"\n", b"\n", b"ok", b" OK", b"'", b"S"])


def test_little_memory_spills_and_counts_the_same():
    texts, pattern = _texts(), Pattern.of("gpt2", None)
    whole, once = ours(texts, pattern)
    small, often = ours(texts, pattern, most=500, batch=7)
    assert small == whole and len(once) == 1 and len(often) > 20 and max(often) <= 500


def test_one_very_long_word_and_slices():
    long = "x" * 300_000
    assert ours(["a " + long, long], Pattern.of("gpt2", None), most=4)[0] == {b"a": 1, f" {long}".encode(): 1, long.encode(): 1}
    found = []
    table = WordTable(Pattern.of("gpt2", None), 10, lambda *run: found.append(run))
    table.add(pa.array(["no", "yes", "yes", "no"], pa.large_string())[1:3])
    table.flush()
    assert found[0][1].to_pylist() == [b"yes"] and found[0][2].tolist() == [2]
    assert ours([], Pattern.of("gpt2", None)) == ({}, []) and ours(["", ""], Pattern.of("gpt2", None)) == ({}, [])
