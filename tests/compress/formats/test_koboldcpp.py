"""The `koboldcpp` format: an adapter where start and end of turns say it all, else the program's own Jinja."""

from __future__ import annotations

import json
import shutil
from importlib.resources import files

from raylm.compress.formats.koboldcpp import Koboldcpp, find_adapter
from raylm.compress.formats.source import Source
from raylm.core.storage import Folder
from tests.model.gguf.small import small
from tests.model.tiny import tiny_tokenizer

REAL = files("trl") / "chat_templates"


def test_a_template_of_turns_becomes_an_adapter(tmp_path):
    at = shutil.copytree(small("llama"), tmp_path / "model")
    (at / "chat_template.jinja").write_text((REAL / "qwen2_5.jinja").read_text())
    written = Koboldcpp(dtype="q8_0", parity_prompts=0, name="mine").write(Source(str(at)), Folder(tmp_path / "out"))
    said = json.loads((tmp_path / "out" / "mine.kcpps").read_text())
    # a system message that stands there where none is given cannot be said by starts and ends
    assert said == {"model_param": "mine-q8_0.gguf", "contextsize": 512, "jinja": True} and "adapter" in written.facts


def test_starts_and_ends_are_found_and_proved():
    tokenizer = tiny_tokenizer(300)
    tokenizer.chat_template = tokenizer.chat_template.replace("{{ bos_token }}", "")
    adapter, proved = find_adapter(tokenizer, False)
    assert proved == 40 and adapter == {
        "user_start": "<|user|>", "user_end": "<|end|>", "assistant_start": "<|assistant|>", "assistant_end": "<|end|>",
        "assistant_gen": "<|assistant|>", "system_start": "<|system|>", "system_end": "<|end|>",
    }  # fmt: skip
    tokenizer.chat_template = (REAL / "llama3.jinja").read_text()
    assert find_adapter(tokenizer, False) == ({}, 0), "texts are trimmed, no adapter does that"
