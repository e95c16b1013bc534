"""The one door: what is read is what tokenizer.json says, and what is saved is read again as that."""

import json
import shutil

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from raylm.core.errors import DataError
from raylm.model.load import load_tokenizer
from raylm.model.tokenizer import keep_as_written
from raylm.tokenize.tokenizers import load
from tests.tokenize.samples import tokenizer

CODE = "def add(n):\n    return n + 1\t# naïve 日本語 🦜  e\u0301\r\n\n12345"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    at = tmp_path_factory.mktemp("made")
    tokenizer(at)
    return at


def folder(made, at, kind, model_type):
    """The tokenizer with another class name, beside a model's config."""
    shutil.copytree(made, at)
    config = json.loads((at / "tokenizer_config.json").read_text()) | {"tokenizer_class": kind}
    if kind is None:
        del config["tokenizer_class"]
    (at / "tokenizer_config.json").write_text(json.dumps(config))
    if model_type:
        (at / "config.json").write_text(json.dumps({"model_type": model_type}))
    return at


@pytest.mark.parametrize(
    ("kind", "model_type"),
    [("LlamaTokenizerFast", None), ("LlamaTokenizer", "llama"), (None, "qwen3"), (None, "qwen2"), (None, "gemma"), (None, "t5"),
     ("Qwen2Tokenizer", "qwen3_5"), ("GPT2TokenizerFast", "gpt2"), ("PreTrainedTokenizerFast", "qwen2")],
)  # fmt: skip
def test_what_is_read_and_saved_is_the_file(made, tmp_path, kind, model_type):
    at = folder(made, tmp_path / "at", kind, model_type)
    right = Tokenizer.from_file(str(made / "tokenizer.json")).encode(CODE, add_special_tokens=False).ids
    plain = load(made)
    for found in (load(at), load_tokenizer(str(at))):
        assert found.encode(CODE, add_special_tokens=False) == right and found.decode(right) == CODE
        assert found.special_tokens_map == plain.special_tokens_map and found.chat_template == plain.chat_template
        assert len(found) == len(plain)
    out = tmp_path / "out"
    out.mkdir()
    if model_type:
        (out / "config.json").write_text(json.dumps({"model_type": model_type}))
    load(at).save_pretrained(out)
    keep_as_written(out)
    keep_as_written(at)
    assert AutoTokenizer.from_pretrained(at).encode(CODE, add_special_tokens=False) == right
    again = AutoTokenizer.from_pretrained(out)
    assert again.encode(CODE, add_special_tokens=False) == right and again.eos_token_id == plain.eos_token_id
    assert load(out).encode(CODE, add_special_tokens=False) == right


def test_a_real_llama_vocabulary_keeps_its_class_habits(tmp_path):
    """A SentencePiece-like file and LlamaTokenizer agree: nothing is rebuilt, and bos is put before a text."""
    from transformers import LlamaTokenizer

    words = ["<unk>", "<s>", "</s>", *(f"<0x{at:02X}>" for at in range(256)), "\u2581", "a", "b", "ab", "\u2581ab"]
    vocab = {word: at for at, word in enumerate(words)}
    LlamaTokenizer(vocab=vocab, merges=[("a", "b"), ("\u2581", "ab")], add_bos_token=True).save_pretrained(tmp_path)
    found = load(tmp_path)
    assert type(found).__name__ == "LlamaTokenizer" and found("ab ab")["input_ids"] == [1, vocab["\u2581ab"], vocab["\u2581ab"]]


def test_what_cannot_be_read_is_reported(tmp_path):
    with pytest.raises(DataError, match="cannot load a tokenizer"):
        load(tmp_path)
