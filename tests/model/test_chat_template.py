"""The hash of a chat template: of the tokenizer and of its files, alone or one of several."""

import pytest

from raylm.model.chat_template import other_template, sha256_of, written_template
from raylm.model.load import load_tokenizer
from tests.model.tiny import tiny_tokenizer


@pytest.mark.parametrize("template", [None, "{{ messages }}\n", {"default": "a", "tool_use": "b"}, {"default": "a"}])
def test_what_is_written_is_what_transformers_reads(tmp_path, template):
    tokenizer = tiny_tokenizer(300)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(tmp_path / "files")
    tokenizer.save_pretrained(tmp_path / "config", save_jinja_files=False)
    for name in ("files", "config"):
        read = load_tokenizer(str(tmp_path / name)).chat_template
        assert sha256_of(written_template(tmp_path / name)) == sha256_of(read) == sha256_of(template)
    assert (sha256_of(template) is None) == (template is None)


def test_two_templates_are_told_apart(tmp_path):
    tokenizer = tiny_tokenizer(300)
    tokenizer.save_pretrained(tmp_path)
    facts = {"chat_template_sha256": sha256_of(tokenizer.chat_template)}
    assert not other_template(facts, str(tmp_path)) and not other_template({}, str(tmp_path))
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    said = other_template(facts, str(tmp_path))
    assert facts["chat_template_sha256"][:12] in said and sha256_of("{{ messages }}")[:12] in said
    assert not other_template(facts, str(tmp_path / "nowhere"))
