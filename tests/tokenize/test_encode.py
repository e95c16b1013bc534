"""The fast way: ids equal to Hugging Face's on thousands of texts, and left where they are not."""

import random
import subprocess
import sys
import sysconfig
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Regex, pre_tokenizers

from raylm.tokenize.encode import PROBES, encoder, odd_characters
from raylm.tokenize.tokenizers import load
from raylm.tokenize.trainers.bpe import Bpe
from raylm.tokenize.trainers.counts import count_texts
from raylm.tokenize.trainers.unigram import Unigram
from tests.tokenize.samples import TEXTS, tokenizer


def _slow(coder, texts):
    backend = coder.backend_tokenizer
    backend.encode_special_tokens = True
    return [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)]


def _rows(made):
    ids, offsets = made
    assert ids.dtype == np.int32 and offsets.dtype == np.int64 and offsets[0] == 0 and offsets[-1] == len(ids)
    return [ids[start:end].tolist() for start, end in pairwise(offsets)]


def _texts():
    chosen = random.Random(1)
    points = [*range(0xD800), *range(0xE000, 0x110000)]
    common = " \t\n\r'sStT12aäß日🦜_-.!\u0301\u00a0"
    texts = ["".join(chosen.choice(common) for _ in range(chosen.randint(0, 60))) for _ in range(2000)]
    texts += ["".join(chr(chosen.choice(points)) for _ in range(30)) for _ in range(1000)]
    texts += ["".join(chr(chosen.randrange(0x2FFFF, 0x33500)) for _ in range(30)) for _ in range(50)]
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))[:25]
    return texts + [line for file in files for line in file.read_text().split("\n\n")]


@pytest.mark.parametrize("fields", [{}, {"pattern": "gpt4"}, {"pattern": "gpt4", "digits": 1}])
def test_equal_on_thousands_of_texts(tmp_path, fields):
    coder, texts = tokenizer(tmp_path, vocab_size=900, **fields), _texts()
    encode = encoder(coder, texts)
    assert len(texts) > 5000 and (encode.name, encode.reason) == ("gigatoken", "")
    assert _rows(encode(texts)) == _slow(coder, texts)
    assert _rows(encode([])) == [] and _rows(encode(["", "a", ""])) == _slow(coder, ["", "a", ""])


def test_specials_that_a_text_spells_are_text(tmp_path):
    coder = tokenizer(tmp_path)
    for made in (encoder(coder), encoder(_unreadable(tmp_path / "other"))):
        ids, _ = made(["<|end|> and <|pad|><|bos|>"])
        assert ids.min() >= 6


def test_characters_that_the_libraries_see_differently_are_left_to_tokenizers(tmp_path):
    # U+088F is a letter since Unicode 17: gigatoken keeps "a\u088f" together, tokenizers cuts it
    texts = ["a\u088f" * 20] * 50
    card = Bpe(vocab_size=400)
    card.train(count_texts(["a\u088f !\u088f" * 30], card.pre_tokenization(tmp_path)), tmp_path)
    coder = load(tmp_path)
    odd = odd_characters()
    assert odd[0x88F] and not odd[[ord(character) for character in "aé日🦜\u0301\u00a0"]].any()
    for seen in ((), texts):
        # and take no others with them
        encode = encoder(coder, seen)
        assert encode.name == "gigatoken"
        assert _rows(encode(["plain", *texts, "naïve"])) == _slow(coder, ["plain", *texts, "naïve"])


def test_the_fallback_is_taken_and_reported(tmp_path):
    made = encoder(_unreadable(tmp_path))
    assert made.name == "tokenizers" and made.reason.startswith("gigatoken cannot read it")
    assert _rows(made([*PROBES, *TEXTS])) == _slow(_unreadable(tmp_path), [*PROBES, *TEXTS])
    card = Unigram(vocab_size=400)
    card.train(count_texts(TEXTS, card.pre_tokenization(tmp_path)), tmp_path)
    coder = load(tmp_path)
    assert encoder(coder).name == "tokenizers" and _rows(encoder(coder)(TEXTS)) == _slow(coder, TEXTS)


def test_memory_stays_and_a_new_process_gives_the_same(tmp_path):
    coder = tokenizer(tmp_path)
    code = (
        "import sys, random, psutil; from raylm.tokenize.encode import encoder; from raylm.tokenize.tokenizers import load\n"
        "e = encoder(load(sys.argv[1])); r = random.Random(0); used = psutil.Process().memory_info\n"
        "print(e.name, e(['It is naïve.'])[0].tolist())\n"
        "def more(): e([' '.join('%x' % r.getrandbits(40) for _ in range(100_000)) for _ in range(4)])\n"
        "more(); before = used().rss\n"
        "for _ in range(6): more()\n"
        "print((used().rss - before) // 2**20)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    first, grown = done.stdout.strip().splitlines()[-2:]
    assert first == f"gigatoken {encoder(coder)(['It is naïve.'])[0].tolist()}"
    # 26 MB of words never seen before
    assert int(grown) < 200, f"{grown} MB"


def _unreadable(at):
    """A tokenizer whose pattern gigatoken does not know."""
    at.mkdir(exist_ok=True)
    coder = tokenizer(at)
    split = pre_tokenizers.Split(Regex(r"\w+|\W+"), "isolated")
    bytes_alone = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    coder.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_alone])
    return coder
