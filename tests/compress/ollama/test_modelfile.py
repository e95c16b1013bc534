"""Modelfiles: what Ollama reads of them is what was meant."""

from __future__ import annotations

import pytest

from raylm.compress.ollama.modelfile import Command, modelfile, parameters, read_modelfile
from raylm.core.errors import ConfigError


def test_sampling_stops_and_length_come_from_the_model():
    generation = {"do_sample": True, "temperature": 0.6, "top_p": 0.95, "repetition_penalty": 1.1, "eos_token_id": 2}
    assert parameters(generation, ["<|end|>", "</s>"], 512) == [
        ("temperature", "0.6"), ("top_k", "50"), ("top_p", "0.95"), ("repeat_penalty", "1.1"), ("num_ctx", "512"),
        ("stop", "<|end|>"), ("stop", "</s>"),
    ]  # fmt: skip
    # greedy, whatever else stands there
    assert parameters({"do_sample": False, "temperature": 0.6, "top_p": 0.9}, [], 32768) == [
        ("temperature", "0"), ("repeat_penalty", "1"),
    ]  # fmt: skip
    assert parameters({}, [], None) == []
    # what Ollama does by itself, and transformers does not, is switched off
    said = dict(parameters({"do_sample": True, "max_new_tokens": 1048576}, [], None))
    assert said["repeat_penalty"] == "1" and said["num_predict"] == "1048576"


def test_a_modelfile_is_read_as_it_was_meant():
    template = '{{- if .System }}<|im_start|>system\n\t{{ .System }} "quoted" {{ end }}\n# no comment\n\n'
    text = modelfile(
        "m.gguf", template, [Command("stop", "\n<|user|>"), Command("temperature", "0")], ["Apache\r\n  License", "mit"]
    )
    assert read_modelfile(text) == [
        ("model", "./m.gguf"), ("template", template), ("stop", "\n<|user|>"), ("temperature", "0"),
        ("license", "Apache\r\n  License"), ("license", "mit"),
    ]  # fmt: skip
    assert read_modelfile("# a comment here\nFROM x\n\nPARAMETER  stop a\nPARAMETER stop b c\nSYSTEM \"a\nb\"\n") == [
        ("model", "x"), ("stop", "a"), ("stop", "b c"), ("system", "a\nb"),
    ]  # fmt: skip


@pytest.mark.parametrize("template", ['a """\n b', "no-break\u00a0space"])
def test_what_ollama_would_read_otherwise_is_refused(template):
    with pytest.raises(ConfigError, match=r"Ollama would not read template as it is|no command"):
        modelfile("m.gguf", template, [], [])
    with pytest.raises(ConfigError, match="no command"):
        read_modelfile("FORM x\n")
