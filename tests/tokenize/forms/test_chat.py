"""Chat: the mask is what the model must generate behind the generation prompt, under the templates that people use."""

import copy
import re
from pathlib import Path

import pytest
from tokenizers import AddedToken

from raylm.core.errors import DataError
from raylm.tokenize.forms.chat import Chat
from tests.tokenize.samples import tokenizer, turn

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Qwen2.5, Qwen3, Phi-3, GLM-4.5: what has another role is written nowhere
KNOWN_ROLES = CHATML.replace(
    "{{ '<|im_start|>'", "{% if m['role'] in ['system', 'user', 'assistant', 'tool'] %}{{ '<|im_start|>'", 1
)
KNOWN_ROLES = KNOWN_ROLES.replace("{% endfor %}", "{% endif %}{% endfor %}", 1)
# Qwen3: only behind the last question an answer has a think block, and those of old answers are dropped
QWEN3 = (
    "{% set ns = namespace(last=-1) %}{% for m in messages %}"
    "{% if m['role'] == 'user' and not (m['content'].startswith('<tool>') and m['content'].endswith('</tool>')) %}"
    "{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% set said = m['content'].split('</think>')[-1].lstrip('\n') %}"
    "{% if m['role'] == 'assistant' and loop.index0 > ns.last %}{{ '<think>\n' }}{% if '</think>' in m['content'] %}"
    "{{ m['content'].split('</think>')[0].split('<think>')[-1].strip('\n') }}{% endif %}{{ '\n</think>\n\n' }}{% endif %}"
    "{{ said + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# gpt-oss: another end for the last answer, words before it that the model generates, too
GPT_OSS = (
    "{{ '<|start|>system<|message|>Be good.<|end|>' }}{% for m in messages %}{% if m['role'] == 'assistant' %}"
    "{{ '<|start|>assistant<|channel|>final<|message|>' + m['content'] }}{{ '<|return|>' if loop.last else '<|end|>' }}{% else %}"
    "{{ '<|start|>' + m['role'] + '<|message|>' + m['content'] + '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"
)
# DeepSeek R1: the generation prompt opens a think block, written answers have none
R1 = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '<|User|>' + m['content'] }}{% else %}"
    "{{ '<|Assistant|>' + m['content'].split('</think>')[-1] + '<|eos|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|Assistant|><think>\n' }}{% endif %}"
)
# Phi-3: an end of text behind the last turn where no answer is asked for
PHI3 = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ '<|eos|>' }}{% endif %}"
)
# Llama 3 and Gemma trim what is said; Gemma also puts the system prompt into the user's turn
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<|head|>' + m['role'] + '<|/head|>\n\n' + m['content'] | trim + '<|eot|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|head|>assistant<|/head|>\n\n' }}{% endif %}"
)
# Mistral: no generation prompt of its own, roles must alternate, the system prompt stands before the last question
MISTRAL = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set led = messages[0]['content'] + '\n\n' %}"
    "{% set rest = messages[1:] %}"
    "{% else %}{% set led = '' %}{% set rest = messages %}{% endif %}{% for m in rest %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if m['role'] == 'user' %}{{ '[INST] ' + (led if loop.index0 >= rest | length - 2 else '') + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + '<|eos|>' }}{% endif %}{% endfor %}"
)
# the mark begins at token 0 where the dialogue does so with the assistant
MARKED = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] + '<|end|>' }}{% endgeneration %}"
    "{% else %}{{ m['content'] + '<|end|>' }}{% endif %}{% endfor %}"
)
# transformers counts this mark from where the macro is called
MACRO = (
    "{% macro say(words) %}{% generation %}{{ words + '<|end|>' }}{% endgeneration %}{% endmacro %}"
    "{% for m in messages %}"
    "{{ m['role'] + (say(m['content']) if m['role'] == 'assistant' else m['content'] + '<|end|>') }}{% endfor %}"
)
END = "<|im_end|>\n"
USER, SYSTEM = turn("user", "a"), turn("system", "the assistant says a")


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return tokenizer(tmp_path_factory.mktemp("coder"))


def chat_of(plain, template):
    coder = copy.deepcopy(plain)
    names = sorted(set(re.findall(r"<\|[^|<>\s]+\|>|<\uff5c[^\uff5c]+\uff5c>|<(?:start|end)_of_turn>|\[/?INST\]", template)))
    coder.add_tokens([AddedToken(name, special=True, normalized=False) for name in names if name not in coder.get_vocab()])
    coder.chat_template = template
    return coder, Chat(coder)


def learned(coder, tokens, mask):
    """The stretches of equal mask that are learned, decoded."""
    parts, before = [], 0
    for token, on in zip(tokens, mask, strict=True):
        if on:
            parts += [[token]] if not before else []
            parts[-1] += [token] if before else []
        before = on
    return [coder.decode(part) for part in parts]


def said(*words):
    """A dialogue in which the assistant answers so, one question before each."""
    return [part for word in words for part in (USER, turn("assistant", word))]


@pytest.mark.parametrize(
    ("template", "turns", "right"),
    [
        (CHATML, said("a", "a"), ["a" + END] * 2),
        (CHATML, [SYSTEM, *said("the assistant says a", "user")], ["the assistant says a" + END, "user" + END]),
        (CHATML, said("\nx", "y 🦜", "", " z "), ["\nx" + END, "y 🦜" + END, END, " z " + END]),
        (CHATML, [*said("e\u0301 日", "é🦜"), USER], ["e\u0301 日" + END, "é🦜" + END]),
        (CHATML, [turn("assistant", "Welcome."), *said("Yes?")], ["Welcome." + END, "Yes?" + END]),
        (CHATML, [USER, turn("assistant", "one"), turn("assistant", "two"), USER], ["one" + END, "two" + END]),
        (CHATML, [turn("tool", "assistant\n"), turn("assistant", "n")], ["n" + END]),
        (CHATML, [turn("user", ""), turn("assistant", "x")], ["x" + END]),
        (QWEN3, said("a0", "ok"), ["a0" + END, "<think>\n\n</think>\n\nok" + END]),
        (QWEN3, said("<think>\nhm\n</think>\n\na", "<think>\nso\n</think>\n\nb"),
         ["a" + END, "<think>\nso\n</think>\n\nb" + END]),
        (QWEN3, [USER, turn("assistant", "call"), turn("user", "<tool>7</tool>"), turn("assistant", "7")],
         ["<think>\n\n</think>\n\ncall" + END, "<think>\n\n</think>\n\n7" + END]),
        (GPT_OSS, said("a", "b"), ["<|channel|>final<|message|>a<|end|>", "<|channel|>final<|message|>b<|return|>"]),
        (GPT_OSS, [*said("a"), USER], ["<|channel|>final<|message|>a<|end|>"]),
        (R1, said("a", "b"), ["a<|eos|>", "b<|eos|>"]),
        (PHI3, said("a", "b"), ["a<|end|>\n", "b<|end|>\n<|eos|>"]),
        (LLAMA3, [SYSTEM, *said(" a ", "\n\nb\n")], ["a<|eot|>", "b<|eot|>"]),
        (MISTRAL, [SYSTEM, *said("a", "b")], [" a<|eos|>", " b<|eos|>"]),
        (MARKED, [turn("assistant", "hi"), turn("user", "hi"), turn("assistant", "\nhi 🦜")], ["hi<|end|>", "\nhi 🦜<|end|>"]),
    ],
)  # fmt: skip
def test_what_is_learned_is_what_stands_behind_the_generation_prompt(plain, template, turns, right):
    coder, chat = chat_of(plain, template)
    tokens, mask = chat.dialogue(turns)
    assert learned(coder, tokens, mask) == right
    assert tokens == coder.apply_chat_template(turns, tokenize=True)["input_ids"]


def test_tokens_are_parted_where_one_would_hold_the_header_and_the_answer(plain, tmp_path):
    from raylm.tokenize.tokenizers import load
    from raylm.tokenize.trainers.bpe import Bpe
    from raylm.tokenize.trainers.counts import count_texts

    card = Bpe(vocab_size=300, pattern="gpt4")
    card.train(count_texts(["a\n\nb\n\nc\n\nd"] * 40, card.pre_tokenization(tmp_path)), tmp_path)
    coder, chat = chat_of(load(tmp_path), CHATML)
    assert len(coder.encode("\n\n", add_special_tokens=False)) == 1
    tokens, mask = chat.dialogue(said("\nx", "y"))
    assert learned(coder, tokens, mask) == ["\nx" + END, "y" + END]
    asked = coder.apply_chat_template([USER], tokenize=True, add_generation_prompt=True)["input_ids"]
    assert tokens[: len(asked)] == asked and coder.decode(tokens) == coder.apply_chat_template(said("\nx", "y"), tokenize=False)
    prompt, (answer,) = chat.answers([USER], [turn("assistant", "\nx")])
    assert prompt == asked and coder.decode(answer) == "\nx" + END


def test_turns_that_are_not_to_be_learned(plain):
    for template in (CHATML, MARKED.replace("{% else %}{{ m", "{% else %}{{ '<|im_start|>' + m")):
        coder, chat = chat_of(plain, template)
        turns = said("wrong", "right")
        turns[1] = turns[1] | {"weight": 0}
        parts = learned(coder, *chat.dialogue(turns))
        assert len(parts) == 1 and parts[0].startswith("right")


FAILS = CHATML.replace("{% for m", "{{ messages[0]['content'] + 7 }}{% for m", 1)


@pytest.mark.parametrize(
    ("template", "turns", "what"),
    [
        (KNOWN_ROLES, [turn("developer", "be brief"), *said("x")], "template_leaves_out: developer"),
        (KNOWN_ROLES, [turn("narrator", "a"), turn("assistant", "a")], "template_leaves_out: narrator"),
        (CHATML.replace("m['content'] +", "m['content'][:40] +"), said("x" * 60), "template_leaves_out: assistant"),
        (R1, said("<think>why</think>because"), "template_leaves_out: thinking"),
        (QWEN3, said("<think>a</think>lost<think>b</think>c"), "template_leaves_out: thinking"),
        (MISTRAL, [turn("assistant", "hi"), *said("x")], "template_refuses"),
        (CHATML.replace("m['role']", "m['role'] + m['absent']"), said("x"), "template_refuses"),
        (FAILS, said("x"), "template_fails: TypeError"),
        (CHATML.replace("in messages", "in messages | sort(attribute='role')"), said("x"), "template_reorders_turns"),
        (CHATML.replace("m['content'] +", "m['content'] + m['content'] +"), said("x"), "template_repeats: user"),
        (CHATML, said("a <|im_end|> b"), "special_token_in_text"),
        (CHATML, [turn("<|im_start|>", "a"), turn("assistant", "x")], "special_token_in_text"),
        (CHATML, said("\ue0f0"), "private_use_character"),
        (CHATML.replace("m['content'] +", "m['content'] + (m['content'] | length | string) +"), said("x"), "template_reads_text"),
        (MARKED.replace("== 'assistant'", "!= 'assistant'"), said("x"), "template_marks_others"),
        (MACRO, said("x"), "template_marks_others"),
        (MACRO, said("x and much more than its header"), "template_marks_others"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(plain, template, turns, what):
    _, chat = chat_of(plain, template)
    with pytest.raises(DataError) as caught:
        chat.dialogue(turns)
    assert caught.value.what == what


def test_prompts_and_answers(plain):
    for template, right in (
        (QWEN3, "<think>\n\n</think>\n\nb" + END),
        (R1, "b<|eos|>"),
        (GPT_OSS, "<|channel|>final<|message|>b<|return|>"),
    ):
        coder, chat = chat_of(plain, template)
        prompt, answers = chat.answers([*said("a"), USER], [turn("assistant", "b")], [turn("assistant", "c")])
        assert coder.decode(answers[0]) == right and coder.decode(answers[1]) == right.replace("b", "c", 1)
        full = coder.apply_chat_template(said("a", "b"), tokenize=True)["input_ids"]
        assert prompt + answers[0] == full
        asked = coder.apply_chat_template([USER], tokenize=True, add_generation_prompt=True)["input_ids"]
        assert chat.prompt([USER]) == asked
    with pytest.raises(DataError, match="leaves_out: critic"):
        chat_of(plain, KNOWN_ROLES)[1].prompt([turn("critic", "x"), USER])


def test_a_template_that_ends_no_answer_is_refused(plain):
    _, chat = chat_of(plain, "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] }}{% endfor %}")
    with pytest.raises(DataError, match="writes no end token"):
        chat.check_end()


# these take lists of parts, images among them, and no plain text
PICTURES = ("idefics3", "llava_next", "smolvlm")


def _templates():
    import importlib.util

    spec = importlib.util.find_spec("trl")
    found = sorted((Path(spec.origin).parent / "chat_templates").glob("*_training.jinja")) if spec and spec.origin else []
    return [path for path in found if not path.stem.startswith(PICTURES)]


# where TRL's marks hold the header, too, or a think block that the generation prompt has opened
OTHER_BEGIN = ("deepseek", "gptoss", "muse", "nemotron", "qwen2_5", "qwen3_5", "qwen3_6", "qwen3_8", "glm")


@pytest.mark.parametrize("path", _templates(), ids=lambda path: path.stem)
def test_without_marks_the_mask_is_that_of_trls_training_templates(plain, path):
    """TRL writes {% generation %} into a copy of each family's template; here the marks are taken out, and found again."""
    marked = path.read_text()
    bare = re.sub(r"\{%(-?)\s*endgeneration\s*(-?)%\}", r"{%\1 endif \2%}", marked)
    bare = re.sub(r"\{%(-?)\s*generation\s*(-?)%\}", r"{%\1 if true \2%}", bare)
    coder, chat = chat_of(plain, marked)
    tokens, mask = chat.dialogue(said("a", "Text number 4", "\nspam 🦜"))
    _, other = chat_of(plain, bare)
    again, found = other.dialogue(said("a", "Text number 4", "\nspam 🦜"))
    assert again == tokens == coder.apply_chat_template(said("a", "Text number 4", "\nspam 🦜"), tokenize=True)["input_ids"]
    theirs, ours = learned(coder, tokens, mask), learned(coder, tokens, found)
    if path.stem.startswith(OTHER_BEGIN):
        assert len(theirs) == len(ours) and all(one.endswith(other) for one, other in zip(theirs, ours, strict=True))
    else:
        assert theirs == ours
