"""What is learned of a dialogue: by role, by turn, with or without ends and thoughts; and in which rows."""

import pytest
from pydantic import ValidationError

from raylm.core.errors import DataError
from raylm.tokenize.forms.dialogues import Dialogues
from raylm.tokenize.forms.loss_mask import LossMask
from tests.tokenize.forms.test_chat import CHATML, GPT_OSS, QWEN3
from tests.tokenize.samples import table, tokenizer, turn
from tests.tokenize.templates import TOOLS, call, chat_of, learned, said

MARKED = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% if m['role'] == 'assistant' %}{% generation %}"
    "{{ m['content'] + '<|im_end|>' }}{% endgeneration %}{% else %}{{ m['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TURNS = [turn("system", "s"), turn("user", "a"), said("b"), turn("user", "c"), said("d")]
END = "<|im_end|>\n"


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return tokenizer(tmp_path_factory.mktemp("coder"))


@pytest.mark.parametrize("template", [CHATML, MARKED])
@pytest.mark.parametrize(
    ("asked", "right"),
    [
        ({}, ["b<end>", "d<end>"]),
        ({"mask_history": True}, ["d<end>"]),
        ({"train_on_eot": "last"}, ["b", "d<end>"]),
        ({"train_on_eot": "all"}, ["<end>", "<end>", "b<end>", "<end>", "d<end>"]),
        ({"roles_to_train": ("user",)}, ["a<end>", "c<end>"]),
        ({"roles_to_train": ("user", "assistant", "system")}, ["s<end>", "a<end>", "b<end>", "c<end>", "d<end>"]),
    ],
)
def test_roles_turns_and_ends(plain, template, asked, right):
    coder, chat = chat_of(plain, template)
    parts = learned(coder, *chat.dialogue(TURNS, loss=LossMask(**asked)))
    # the line end behind an end token is no part of this template's marks
    assert [part.removesuffix("\n").replace("<|im_end|>", "<end>") for part in parts] == right


def test_thoughts_may_be_read_and_not_learned(plain):
    inline = [turn("user", "a"), said("<think>\nhm\n</think>\n\nb")]
    for template, turns, right in (
        (QWEN3, inline, ["b" + END]),
        (CHATML, inline, ["b" + END]),
        (CHATML, TURNS, ["b" + END, "d" + END]),
        (MARKED, inline, ["b<|im_end|>"]),
    ):
        coder, chat = chat_of(plain, template)
        assert learned(coder, *chat.dialogue(turns, loss=LossMask(train_on_reasoning=False))) == right
    own = (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
        "{% if m.reasoning_content %}{{ '<think>' + m.reasoning_content + '</think>' }}{% endif %}{{ m.content }}"
        "{% for c in m.tool_calls or [] %}{{ '<call>' + (c.function | tojson) + '</call>' }}{% endfor %}{{ '<|im_end|>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    coder, chat = chat_of(plain, own)
    turns = [turn("user", "a"), said(tool_calls=[call("weather", city="<y>")], reasoning_content="hm")]
    written = '<call>{"name": "weather", "arguments": {"city": "<y>"}}</call>' + END
    assert learned(coder, *chat.dialogue(turns)) == ["<think>hm</think>" + written]
    assert learned(coder, *chat.dialogue(turns, loss=LossMask(train_on_reasoning=False))) == [written]


def test_a_turn_that_its_row_excepts_is_not_learned_whoever_says_it(plain):
    coder, _ = chat_of(plain, CHATML)
    turns = [turn("user", "a") | {"train": False}, said("b"), turn("user", "c") | {"weight": 1}, said("d") | {"weight": 0}]
    made = Dialogues(roles_to_train=("user", "assistant")).rows(coder, table({"messages": turns}))
    (row,) = made.table.to_pylist()
    assert learned(coder, row["tokens"], row["mask"]) == ["b" + END, "c" + END]


def test_an_answer_beside_messages_that_wait_for_it_is_not_passed_over(plain):
    coder, _ = chat_of(plain, CHATML)
    rows = [{"messages": TURNS[:4], "completion": "d"}, {"messages": TURNS[:4], "chosen": "d", "rejected": "e"}]
    made = Dialogues().rows(coder, table(*rows, {"messages": TURNS, "chosen": "d", "rejected": "e"}))
    assert made.table.num_rows == 1 and dict(made.dropped) == {"unread_key: completion": 1, "unread_key: chosen": 1}


def test_what_rows_begin_with_is_rendered_once(plain):
    """A dialogue of n rewritten turns renders each beginning once, not once a row: 5 n renderings, not n * n."""
    _, chat = chat_of(plain, QWEN3)
    turns = [turn("user", "a"), said("<think>\nhm\n</think>\n\nb")] * 12
    text, count = chat.template.text, []
    chat.template.text = chat._tool_template.text = lambda *args, **more: count.append(1) or text(*args, **more)
    assert len(chat.rows(turns)) == 12 and len(count) < 5 * 12


def test_a_completion_is_learned_and_no_answer_of_its_prompt(plain):
    coder, _ = chat_of(plain, CHATML)
    prompt, rows = TURNS[:4], []
    rows.append({"prompt": prompt, "completion": TURNS[4:]})
    rows.append({"prompt": "a", "chosen": "d", "rejected": "e"})
    rows.append({"instruction": "c", "output": "d", "history": [["a", "b"]]})
    rows.append({"prompt": "a", "chosen": [turn("user", "a"), said("d")], "rejected": [turn("user", "a"), said("e")]})
    rows.append({"messages": TURNS})
    made = Dialogues(completion_only_loss=True).rows(coder, table(*rows))
    assert [learned(coder, row["tokens"], row["mask"]) for row in made.table.to_pylist()] == [["d" + END]] * 4
    assert dict(made.dropped) == {"missing_column: completion": 1}


def test_rows_of_a_template_that_rewrites_earlier_turns(plain):
    thought = [turn("user", "a"), said("<think>\nhm\n</think>\n\nb"), turn("user", "c"), said("<think>\nso\n</think>\n\nd")]
    for template, first, last in (
        (QWEN3, "<think>\nhm\n</think>\n\nb" + END, "<think>\nso\n</think>\n\nd" + END),
        (GPT_OSS, "<|channel|>final<|message|>b<|return|>", "<|channel|>final<|message|>d<|return|>"),
    ):
        turns = thought if template == QWEN3 else [turn("user", "a"), said("b"), turn("user", "c"), said("d")]
        coder, chat = chat_of(plain, template)
        rows = chat.rows(turns)
        assert [learned(coder, row.tokens, row.mask) for row in rows] == [[first], [last]]
        # each row is what the model is sent, and the answer
        for row, size in zip(rows, (2, 4), strict=True):
            assert row.tokens == coder.apply_chat_template(turns[:size], tokenize=True)["input_ids"] and row.behind_prompt
        with pytest.raises(DataError, match="template_rewrites_turns"):
            chat.rows(turns, per_turn="never")
    coder, chat = chat_of(plain, CHATML)
    assert len(chat.rows(thought)) == 1 and [sum(row.mask) for row in chat.rows(thought, per_turn="always")] == [
        sum(chat.dialogue(turns, loss=LossMask(mask_history=True))[1]) for turns in (thought[:2], thought)
    ]


def test_rows_of_a_document_and_their_index(plain):
    coder, _ = chat_of(plain, QWEN3)
    once, twice = (
        {"messages": [turn("user", "a"), said("b")]},
        {"messages": [turn("user", "a"), said("b"), turn("user", "c"), said("d")]},
    )
    made = Dialogues().rows(coder, table(twice, once))
    assert made.table.num_rows == 3 and [line["rows"] for line in made.index.to_pylist()] == [[0, 1], [2]]
    assert made.index["num_tokens"].to_pylist() == [
        sum(map(len, made.table["tokens"].to_pylist()[:2])),
        len(made.table["tokens"][2]),
    ]
    facts = Dialogues().facts(made.sums, made.sums - made.sums)
    assert facts["rows_per_dialogue"] == {"1": 1, "2": 1} and made.table["id"].to_pylist()[0] == made.table["id"].to_pylist()[1]
    packed = Dialogues(packing="first_fit_decreasing", length=70).rows(coder, table(twice, once))
    alone = [list(zip(row["tokens"], row["mask"], strict=True)) for row in made.table.to_pylist()]
    tokens, masks = (packed.table[name].to_pylist() for name in ("tokens", "mask"))
    for line, rows in zip(packed.index.to_pylist(), (alone[:2], alone[2:]), strict=True):
        places = zip(line["rows"], line["positions"], line["lengths"], strict=True)
        assert [list(zip(tokens[r][p : p + n], masks[r][p : p + n], strict=True)) for r, p, n in places] == rows


def test_what_cannot_be_asked_is_refused():
    for wrong in ({"roles_to_train": ()}, {"roles_to_train": ("narrator",)}, {"roles_to_train": ("user", "user")}):
        with pytest.raises(ValidationError):
            Dialogues(**wrong)


def test_thoughts_and_tools_that_are_left_out_are_counted(plain):
    coder, _ = chat_of(plain, QWEN3)
    row = {"messages": [turn("user", "a"), said("<think>\nhm\n</think>\n\nb"), turn("user", "c"), said("d")]}
    made = Dialogues().rows(coder, table(row))
    assert Dialogues().facts(made.sums, made.sums - made.sums)["left_out"] == {"reasoning of earlier turns": 1}
    names = (
        "{% for t in tools or [] %}{{ t.function.name }}"
        "{% for p in t.function.parameters.properties %}{{ p }}{% endfor %}{% endfor %}"
    )
    coder, _ = chat_of(plain, names + CHATML)
    made = Dialogues().rows(coder, table({"messages": TURNS, "tools": TOOLS}))
    assert Dialogues().facts(made.sums, made.sums - made.sums)["left_out"] == {"tools.description": 1}
