"""The `text_generation_webui` format: its template alone gives what transformers gives."""

from __future__ import annotations

import shutil

import jinja2
import pytest
import yaml

from raylm.compress.formats.source import Source
from raylm.compress.formats.text_generation_webui import SETTINGS, TextGenerationWebui, sampling
from raylm.core.errors import ConfigError
from raylm.core.storage import Folder
from raylm.model.load import load_tokenizer
from raylm.tokenize.trainers.layout import CHAT_TEMPLATE
from tests.model.gguf.small import small


def test_template_and_settings_lie_where_the_program_looks(tmp_path):
    at = shutil.copytree(small("llama"), tmp_path / "model")
    # one that marks what is learned, in a tag that only transformers knows
    (at / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    written = TextGenerationWebui(dtype="q8_0", parity_prompts=0, name="mine").write(Source(str(at)), Folder(tmp_path / "out"))
    assert written.facts["conversations"] == 40
    assert sorted(Folder(tmp_path / "out").files()) == [
        SETTINGS, "parity.json", "user_data/instruction-templates/mine.yaml", "user_data/models/mine-q8_0.gguf",
    ]  # fmt: skip
    said = yaml.safe_load((tmp_path / "out" / SETTINGS).read_text())[r"^mine\-q8_0\.gguf$"]
    assert said["ctx_size"] == 512 and said["instruction_template"] == "mine" and said["custom_stopping_strings"] == '"<|end|>"'
    template = yaml.safe_load((tmp_path / "out/user_data/instruction-templates/mine.yaml").read_text())["instruction_template"]
    talk = [{"role": "user", "content": "a\nb"}]
    expected = load_tokenizer(str(at)).apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
    assert jinja2.Template(template).render(messages=talk, add_generation_prompt=True) == expected


def test_a_template_that_needs_more_is_refused(tmp_path):
    at = shutil.copytree(small("llama"), tmp_path / "model")
    (at / "chat_template.jinja").write_text(CHAT_TEMPLATE + "{{ messages | tojson }}")
    with pytest.raises(ConfigError, match="needs what only transformers gives it: conversation 0"):
        TextGenerationWebui(dtype="q8_0", parity_prompts=0).write(Source(str(at)), Folder(tmp_path / "out"))


def test_a_model_that_draws_nothing_is_not_given_a_temperature():
    settings = {"do_sample": False, "temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.1}
    assert sampling(settings) == {"repetition_penalty": 1.1, "top_k": 1}
    assert sampling(settings | {"do_sample": True}) == {"temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.1}
