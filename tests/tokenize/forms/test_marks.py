"""A template by which no model could learn to stop is refused before a row is made."""

import pytest

from raylm.core.errors import DataError
from raylm.tokenize.forms.dialogues import Dialogues
from tests.tokenize.forms.test_chat import CHATML
from tests.tokenize.samples import tokenizer, turn
from tests.tokenize.templates import chat_of, learned, said, templates

HEAD = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}"
)
NO_END = HEAD + "{% endgeneration %}{% else %}{{ m['content'] }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
TOO_FAR = (
    HEAD + "{{ '<|im_end|>\n' }}{% if not loop.last %}{{ '<|im_start|>' }}{% endif %}{% endgeneration %}"
    "{% else %}{{ m['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
)
# an end of text behind the last answer alone
LAST_ENDS = (
    "{% for m in messages %}{{ '<|head|>' + m['role'] + '\n' + m['content'] }}"
    "{% if loop.last and m['role'] == 'assistant' %}{{ '<|eos|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|head|>assistant\n' }}{% endif %}"
)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return tokenizer(tmp_path_factory.mktemp("coder"))


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (NO_END, r"marks leave out '<\|im_end\|>', which ends an answer"),
        (TOO_FAR, "marks go on behind an answer"),
        ("{% for m in messages %}{{ m['role'] + m['content'] }}{% endfor %}", "writes no end token"),
    ],
)
def test_ends_that_would_be_learned_wrongly(plain, template, words):
    coder, _ = chat_of(plain, template)
    with pytest.raises(DataError, match=words):
        Dialogues().check(coder)
    Dialogues().check(chat_of(plain, CHATML)[0])


def test_an_answer_that_only_the_end_of_a_dialogue_closes_is_a_row_of_its_own(plain):
    coder, chat = chat_of(plain, LAST_ENDS)
    rows = chat.rows([turn("user", "a"), said("b"), turn("user", "c"), said("d")])
    assert [learned(coder, row.tokens, row.mask) for row in rows] == [["b<|eos|>"], ["d<|eos|>"]]


def test_templates_of_real_families_pass(plain):
    for path in templates():
        coder, _ = chat_of(plain, path.read_text())
        if path.stem == "glm4moe":
            # its answers are ended by the header of the next turn
            with pytest.raises(DataError, match="writes no end token"):
                Dialogues().check(coder)
        else:
            Dialogues().check(coder)
