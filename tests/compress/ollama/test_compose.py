"""Go templates made of Jinja ones: the same text on fifty conversations, for real templates of many families."""

from __future__ import annotations

from importlib.resources import files

import pytest

from raylm.compress.go_template.execute import GoTemplate
from raylm.compress.ollama.compose import REFUSAL, ChatTemplate, compose, go_source
from raylm.compress.ollama.conversations import SYSTEMS, THOUGHT, conversations
from raylm.compress.ollama.pieces import find_pieces
from raylm.compress.ollama.prompt import ollama_prompt
from raylm.core.errors import ConfigError, DataError
from raylm.tokenize.trainers.layout import CHAT_TEMPLATE
from tests.model.tiny import tiny_tokenizer

REAL = files("trl") / "chat_templates"
MISTRAL = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}"
    "{% set messages = messages[1:] %}{% endif %}{% for message in messages %}{% if message['role'] == 'user' %}"
    "[INST] {% if loop.last and system is defined %}{{ system + '\\n\\n' }}{% endif %}{{ message['content'] }}[/INST]"
    "{% else %} {{ message['content'] | trim }}{{ eos_token }}{% endif %}{% endfor %}"
)
LLAMA_2 = (
    "{% if messages[0]['role'] == 'system' %}{% set system = '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' %}"
    "{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + (system if loop.first else '') + message['content'] }}"
    "{{ ' [/INST]' }}{% else %}{{ ' ' + message['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"
)


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer(300)


def template_of(name: str) -> str:
    own = {"ours": CHAT_TEMPLATE, "mistral": MISTRAL, "llama_2": LLAMA_2}
    return own.get(name) or (REAL / f"{name}.jinja").read_text()


@pytest.mark.parametrize(
    ("name", "refused"),
    [("ours", 0), ("qwen2_5", 0), ("qwen3", 0), ("llama3", 0), ("gemma", 25), ("phi3", 0), ("mistral", 0), ("llama_2", 0)],
)
def test_fifty_conversations_give_the_same_text(tokenizer, name, refused):
    tokenizer.chat_template = template_of(name)
    made = compose(tokenizer)
    assert (made.conversations, made.refused) == (50 - refused, refused)
    # the two engines, without anything of ours between them
    jinja = tokenizer.apply_chat_template(conversations()[0].messages, tokenize=False, add_generation_prompt=True)
    assert ollama_prompt(GoTemplate(made.template), conversations()[0].messages) == jinja


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(path.name[:-6] for path in REAL.iterdir() if path.name.endswith(".jinja")))
def test_every_template_that_trl_knows_is_equal_or_refused_in_words(tokenizer, name):
    tokenizer.chat_template = (REAL / f"{name}.jinja").read_text()
    try:
        assert sum(compose(tokenizer)[1:3]) == 50
    except ConfigError as refusal:
        assert any(
            word in str(refusal) for word in ("differs at character", "writes today's date", "leaves a message out", "refuses a")
        )


def test_the_conversations_try_what_templates_differ_in():
    talks = conversations()
    assert len(talks) == 50 and sum(talk.system for talk in talks) == 25 and sum(talk.continued for talk in talks) == 10
    assert {len(talk.messages) - talk.system - talk.continued for talk in talks} >= {1, 3, 5, 7, 9, 11}
    texts = [message["content"] for talk in talks for message in talk.messages]
    assert any(text != text.strip() for text in texts) and any("{{" in text for text in texts) and set(SYSTEMS) < set(texts)
    assert sum(any("reasoning_content" in m for m in talk.messages) for talk in conversations(thoughts=True)) > 5


def test_a_first_token_that_the_program_adds_is_not_written_twice(tokenizer):
    tokenizer.chat_template = CHAT_TEMPLATE
    assert "<|bos|>" in compose(tokenizer).template
    assert "<|bos|>" not in compose(tokenizer, adds_bos=True).template
    tokenizer.chat_template = template_of("qwen2_5")
    with pytest.raises(ConfigError, match=r"writes no <\|bos\|>"):
        compose(tokenizer, adds_bos=True)


def test_a_template_that_cannot_be_expressed_names_the_first_conversation(tokenizer):
    # says whether there are more than two messages
    tokenizer.chat_template = CHAT_TEMPLATE + "{% if messages[-1]['content'] | length > 200 %}!{% endif %}"
    with pytest.raises(ConfigError, match=r"Conversation \d+ \(.*user\) differs at character \d+"):
        compose(tokenizer)
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] | upper }}{% endfor %}"
    with pytest.raises(ConfigError, match="leaves a message out"):
        compose(tokenizer)
    tokenizer.chat_template = CHAT_TEMPLATE + "{{ strftime_now('%d') }}"
    with pytest.raises(ConfigError, match="today's date"):
        compose(tokenizer)
    tokenizer.chat_template = None
    with pytest.raises(ConfigError, match="has no chat template"):
        compose(tokenizer)


def test_a_planted_fault_is_found(tokenizer):
    """A piece that is one character off in one place is seen by the comparison."""
    from raylm.compress.ollama import compose as module

    tokenizer.chat_template = CHAT_TEMPLATE
    jinja = ChatTemplate(tokenizer, False)
    pieces = find_pieces(jinja.render, jinja.thinks)
    for gap, piece in pieces.gaps.items():
        wrong = pieces._replace(gaps={**pieces.gaps, gap: piece + " "})
        if go_source(wrong) == go_source(pieces):
            continue
        with pytest.raises(ConfigError, match="differs at character"):
            module.compare(jinja, GoTemplate(go_source(wrong)), conversations())


def test_what_the_template_has_no_place_for_is_an_error_in_ollama(tokenizer):
    tokenizer.chat_template = template_of("gemma")
    go = GoTemplate(compose(tokenizer).template)
    for role in ("system", "tool"):
        with pytest.raises(DataError, match=REFUSAL):
            ollama_prompt(go, [{"role": role, "content": "x"}, {"role": "user", "content": "y"}])


def test_thoughts_of_an_answer_that_goes_on_are_where_ollama_looks_for_them(tokenizer):
    tokenizer.chat_template = template_of("qwen3")
    made = compose(tokenizer)
    assert "<think>\n{{ .Thinking }}\n</think>" in made.template
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "reasoning_content": THOUGHT}]
    assert ollama_prompt(GoTemplate(made.template), talk).endswith(f"<think>\n{THOUGHT}\n</think>\n\nb")
