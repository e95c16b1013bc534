"""The trained tokenizer: same files every time, spells everything, renders chats as transformers does."""

import filecmp
import subprocess
import sys

import pytest

from raylm.tokenize.bpe import ASSISTANT, BOS, END, PAD, SYSTEM, USER
from tests.tokenize.samples import TEXTS, tokenizer, turn


def test_training_gives_the_same_files_in_any_process(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
    tokenizer(tmp_path / "a")
    code = "import sys; from pathlib import Path; from tests.tokenize.samples import tokenizer; tokenizer(Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "b")], check=True, env={"PYTHONPATH": ".", "PYTHONHASHSEED": "7"})
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert "tokenizer.json" in names and filecmp.cmpfiles(tmp_path / "a", tmp_path / "b", names, shallow=False)[0] == names


@pytest.mark.parametrize("text", [*TEXTS[:3], "", " ", "\x00\x1b", "🦜 emoji ﷽", "never seen: ÄÖß ^°"])
def test_any_text_comes_back(tmp_path, text):
    coder = tokenizer(tmp_path)
    assert coder.decode(coder.encode(text, add_special_tokens=False)) == text


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
