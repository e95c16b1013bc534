"""Which parser of thoughts a chat template asks for."""

from __future__ import annotations

import pytest

from raylm.inference.reasoning_families import FAMILIES, OPENED, reasoning_family_of
from raylm.tokenize.trainers.layout import CHAT_TEMPLATE

TURNS = "{% for m in messages %}{{ m['content'] }}{% endfor %}"


class Told:
    """A tokenizer as far as it is asked here."""

    def __init__(self, template: str | None, tokens=("<think>", "</think>")) -> None:
        self.template, self.tokens = template, tokens

    def get_chat_template(self):
        if self.template is None:
            raise ValueError("it has none")
        return self.template

    def get_vocab(self):
        return dict.fromkeys(self.tokens, 0)

    def apply_chat_template(self, messages, tokenize, add_generation_prompt):
        from jinja2 import Environment

        return (
            Environment().from_string(self.template or "").render(messages=messages, add_generation_prompt=add_generation_prompt)
        )


@pytest.mark.parametrize(
    ("template", "family"),
    [
        (None, ""),
        (TURNS, ""),
        (CHAT_TEMPLATE, ""),
        ("{% if enable_thinking %}<think></think>{% endif %}", "qwen3"),
        ("<\uff5cAssistant\uff5c>{% if thinking %}<think>{% else %}</think>{% endif %}", "deepseek_v3"),
        ("<\uff5cAssistant\uff5c>{{ content.split('</think>') }}", "deepseek_r1"),
        ("<tool_call><arg_key></think>", "glm45"),
        # one that opens the thought itself, and one that only takes thoughts out of turns before
        (TURNS + "</think>{% if add_generation_prompt %}<think>\n{% endif %}", OPENED),
        ("{% for m in messages %}{{ m['content'].split('</think>')[-1] }}{% endfor %}", ""),
    ],
)
def test_families_are_told_by_the_template(template, family):
    assert reasoning_family_of(Told(template)) == family


def test_thoughts_without_tokens_of_their_own_stay_in_the_answer():
    assert reasoning_family_of(Told("{% if enable_thinking %}<think></think>{% endif %}", tokens=())) == ""
    assert reasoning_family_of(Told("[THINK]", tokens=("[THINK]",))) == "mistral"


@pytest.mark.vllm
def test_vllm_has_each_of_these_parsers():
    from vllm.reasoning import ReasoningParserManager

    known = {*ReasoningParserManager.lazy_parsers, *ReasoningParserManager.reasoning_parsers}
    assert {family for _, family in FAMILIES} | {OPENED} <= known
