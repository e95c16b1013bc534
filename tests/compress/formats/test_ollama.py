"""The `ollama` format: a Modelfile that Ollama reads as it was meant, whose template gives the chat template's text."""

from __future__ import annotations

import json
import shutil

import pytest

from raylm.compress.formats.ollama import FILE, Ollama, adds_bos
from raylm.compress.formats.source import Source
from raylm.compress.go_template.execute import GoTemplate
from raylm.compress.ollama.conversations import conversations
from raylm.compress.ollama.modelfile import read_modelfile
from raylm.compress.ollama.prompt import ollama_prompt
from raylm.core.errors import ConfigError
from raylm.core.storage import Folder
from raylm.model.load import load_tokenizer
from tests.model.gguf.small import small


def test_the_folder_says_what_the_checkpoint_says(tmp_path):
    at = shutil.copytree(small("llama"), tmp_path / "model")
    generation = {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "eos_token_id": 2}
    (at / "generation_config.json").write_text(json.dumps(generation))
    (at / "README.md").write_text("---\nlicense: apache-2.0\n---\n# x\n")
    out = Folder(tmp_path / "out")
    written = Ollama(dtype="q8_0", parity_prompts=0).write(Source(str(at)), out)
    assert written.variant == "export:ollama" and written.facts["conversations"] == 50 and "tools" not in written.facts
    assert sorted(out.files()) == ["Modelfile", "model-q8_0.gguf", "parity.json"]
    commands = read_modelfile((tmp_path / "out" / FILE).read_text())
    said = dict(commands)
    assert said["model"] == "./model-q8_0.gguf" and said["license"] == "apache-2.0"
    assert (said["temperature"], said["top_p"], said["num_ctx"], said["stop"]) == ("0.7", "0.9", "512", "<|end|>")
    tokenizer, go = load_tokenizer(str(at)), GoTemplate(said["template"])
    talk = conversations()[1].messages
    assert ollama_prompt(go, talk) == tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
    # this tokenizer puts nothing before a text by itself, and so the file
    assert not adds_bos(tmp_path / "out" / "model-q8_0.gguf") and ollama_prompt(go, talk).startswith("<|bos|>")


def test_another_licence_and_a_template_without_a_go_form_are_refused(tmp_path):
    at = shutil.copytree(small("llama"), tmp_path / "model")
    (at / "README.md").write_text("---\nlicense: apache-2.0\n---\n# x\n")
    with pytest.raises(ConfigError, match=r"under apache-2\.0, not under mit"):
        Ollama(dtype="q8_0", parity_prompts=0, license="mit").write(Source(str(at)), Folder(tmp_path / "out"))
    file = at / "chat_template.jinja"
    file.write_text(file.read_text() + "{% if messages[-1]['content'] | length > 200 %}!{% endif %}")
    with pytest.raises(ConfigError, match=r"Conversation \d+ .* differs at character"):
        Ollama(dtype="q8_0", parity_prompts=0).write(Source(str(at)), Folder(tmp_path / "out"))
    assert Folder(tmp_path / "out").files() == []
