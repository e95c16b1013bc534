"""Patterns: their names, what of others' tokenizers is one of them, and the classes of all characters."""

import json

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from raylm.tokenize.trainers.pattern import LETTER, NUMBER, OTHER, SPACE, Pattern, byte_characters, classes, recognize


def _tokenizer(pre_tokenizer, normalizer=None):
    tokenizer = Tokenizer(models.BPE())
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    return tokenizer


def test_byte_characters_are_those_of_the_library():
    assert len(set(byte_characters())) == 256 and sorted(byte_characters()) == sorted(pre_tokenizers.ByteLevel.alphabet())
    spelled = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str("é 日\n")[0][0]
    assert spelled == "".join(byte_characters()[byte] for byte in "é 日\n".encode())


def test_classes():
    found = classes()
    assert [found[ord(c)] for c in "aé日1½ \n\u00a0!🦜"] == [LETTER] * 3 + [NUMBER] * 2 + [SPACE] * 3 + [OTHER] * 2
    assert not found[0xD800:0xE000].any()


def test_beyond_plane_3_nothing_is_a_letter_a_number_or_a_space():
    rest = "".join(map(chr, range(0x40000, 0x110000, 7)))
    assert len(pre_tokenizers.Split(Regex(r"[\p{L}\p{N}\s]"), "isolated").pre_tokenize_str(rest)) == 1
    assert not np.any(classes()[0x40000:])


@pytest.mark.parametrize("name", ["gpt2", "gpt4"])
@pytest.mark.parametrize("digits", [None, 1, 3])
def test_ours_are_recognized(name, digits):
    ours = Pattern.of(name, digits)
    assert recognize(_tokenizer(ours.pre_tokenizer())) == ours


def test_others_tokenizers():
    assert recognize(_tokenizer(Pattern.of("gpt4", 1).pre_tokenizer(), normalizers.NFC())) == Pattern("gpt4", 1)  # as Qwen
    assert recognize(_tokenizer(pre_tokenizers.ByteLevel(add_prefix_space=True))) is None
    assert recognize(_tokenizer(pre_tokenizers.Metaspace())) is None
    assert recognize(_tokenizer(None)) is None
    assert recognize(_tokenizer(Pattern.of("gpt2", None).pre_tokenizer(), normalizers.Lowercase())) is None
    split = pre_tokenizers.Split(Regex(r"\w+"), "isolated")
    bytes_alone = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    assert recognize(_tokenizer(pre_tokenizers.Sequence([split, bytes_alone]))) is None


def test_digits_of_a_pattern():
    assert Pattern.of("gpt2", None).digits == 0 and Pattern.of("gpt4", None).digits == 3
    made = json.loads(_tokenizer(Pattern.of("gpt4", 1).pre_tokenizer()).to_str())["pre_tokenizer"]["pretokenizers"][0]
    assert r"|\p{N}|" in made["pattern"]["Regex"]
