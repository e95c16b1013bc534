"""The trained tokenizer: same files every time, spells everything, renders chats as transformers does."""

import filecmp
import json
import subprocess
import sys
from pathlib import Path

import pytest

from raylm.tokenize.encode import PROBES
from raylm.tokenize.trainers.bpe import Bpe
from raylm.tokenize.trainers.counts import count_texts
from raylm.tokenize.trainers.layout import ASSISTANT, BOS, END, PAD, SPECIALS, SYSTEM, USER
from tests.tokenize.samples import TEXTS, tokenizer, turn


def test_training_gives_the_same_files_in_any_process(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
    tokenizer(tmp_path / "a")
    code = "import sys; from pathlib import Path; from tests.tokenize.samples import tokenizer; tokenizer(Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "b")], check=True, env={"PYTHONPATH": ".", "PYTHONHASHSEED": "7"})
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert "tokenizer.json" in names and filecmp.cmpfiles(tmp_path / "a", tmp_path / "b", names, shallow=False)[0] == names


@pytest.mark.parametrize("fields", [{}, {"pattern": "gpt4"}, {"pattern": "gpt4", "digits": 1}, {"digits": 3}])
def test_any_text_comes_back(tmp_path, fields):
    coder = tokenizer(tmp_path, **fields)
    for text in [*TEXTS[:3], *PROBES, "never seen: ÄÖß ^°"]:
        assert coder.decode(coder.encode(text, add_special_tokens=False)) == text


@pytest.mark.parametrize("pattern", ["gpt2", "gpt4"])
@pytest.mark.parametrize("vocab_size", [300, 500, 1500, 6000])
def test_the_merges_are_the_librarys(tmp_path, pattern, vocab_size):
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    texts = [*TEXTS, *(path.read_text() for path in sorted(Path(json.__file__).parent.parent.glob("[a-d]*.py")))]
    card = Bpe(vocab_size=vocab_size, pattern=pattern)
    card.train(count_texts(texts, card.pre_tokenization(tmp_path)), tmp_path)
    made = json.loads((tmp_path / "tokenizer.json").read_text())["model"]
    theirs = Tokenizer(models.BPE())
    theirs.pre_tokenizer = card.pre_tokenization(tmp_path).pre_tokenizer()
    options = {"special_tokens": [*SPECIALS], "initial_alphabet": sorted(pre_tokenizers.ByteLevel.alphabet())}
    theirs.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=vocab_size, min_frequency=2, show_progress=False, **options))
    assert made == json.loads(theirs.to_str())["model"] and len(made["vocab"]) == vocab_size


@pytest.mark.parametrize(("fields", "most"), [({"digits": 1}, 1), ({"digits": 3}, 3), ({"pattern": "gpt4"}, 3), ({}, 9)])
def test_digits(tmp_path, fields, most):
    card = Bpe(vocab_size=400, **fields)
    card.train(count_texts(["123456789 123456789"] * 50, card.pre_tokenization(tmp_path)), tmp_path)
    vocab = json.loads((tmp_path / "tokenizer.json").read_text())["model"]["vocab"]
    assert max(sum(character.isdigit() for character in token) for token in vocab) == most


def test_special_tokens_stand_first_and_have_their_roles(tmp_path):
    coder = tokenizer(tmp_path)
    assert coder.convert_ids_to_tokens(list(range(6))) == [PAD, BOS, END, USER, ASSISTANT, SYSTEM]
    assert (coder.pad_token_id, coder.bos_token_id, coder.eos_token_id) == (0, 1, 2) and len(coder) == 320


def test_auto_tokenizer_loads_the_same(tmp_path):
    from transformers import AutoTokenizer

    mine, theirs = tokenizer(tmp_path), AutoTokenizer.from_pretrained(str(tmp_path))
    turns = [turn("system", "Be short."), turn("user", "Who?"), turn("assistant", "Me.")]
    for text in TEXTS[:5]:
        assert mine.encode(text) == theirs.encode(text)
    assert (
        mine.apply_chat_template(turns, tokenize=False)
        == theirs.apply_chat_template(turns, tokenize=False)
        == ("<|bos|><|system|>Be short.<|end|><|user|>Who?<|end|><|assistant|>Me.<|end|>")
    )
    assert theirs.apply_chat_template(turns[:2], tokenize=False, add_generation_prompt=True).endswith("<|end|><|assistant|>")
