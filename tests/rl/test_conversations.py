"""Conversations: tokens as they were drawn, masks, limits, and environments that fail."""

from __future__ import annotations

import json

import pytest

from raylm.core.config import CustomCard
from raylm.core.errors import StageError
from raylm.inference.completions import Completion, VersionSpan
from raylm.rl.conversations import Request, seed_of
from raylm.rl.environments.calculator import Calculator
from tests.rl.talk import coder_of, conversations, prompt, say, talk

CALL = '<tool_call>\n{"name": "calculator", "arguments": {"expression": "6 * 7"}}\n</tool_call>'
ODD = CustomCard(path="tests.rl.environments.odd:Odd")


@pytest.fixture(scope="module")
def coder():
    return coder_of()


@pytest.fixture(scope="module")
def tools(coder):
    made = conversations(Calculator(), coder)
    yield made
    made.close()


@pytest.fixture(scope="module")
def odd(coder):
    made = conversations(ODD, coder, timeout_s=1.5, max_turns=4)
    yield made
    made.close()


def test_a_call_is_answered_and_the_answer_is_no_part_of_the_loss(tools, coder):
    said = [CALL, "It is 42."]
    asked: list[Request] = []

    def policy(text, request):
        asked.append(request)
        return say(coder, said[request.turn], version=request.turn)

    one = talk(tools, coder, {"a": prompt()}, policy)["a"]
    trajectory = one.trajectory
    whole = coder.decode([*one.prompt.tokens, *trajectory.tokens])
    messages = json.loads(trajectory.messages)
    # what the model was asked is what its chat template writes of the whole dialogue
    rendered = coder.apply_chat_template(
        [*json.loads(one.prompt.messages), *messages], tools=tools._chat._tools, tokenize=False, add_generation_prompt=False
    )
    assert whole == rendered and trajectory.metrics == {"tool_calls": 1.0, "tool_errors": 0.0}
    assert [message["role"] for message in messages] == ["assistant", "tool", "assistant"] and messages[1]["content"] == "42"
    learned = [token for token, on in zip(trajectory.tokens, trajectory.mask, strict=True) if on]
    assert coder.decode(learned) == f"{CALL}<|end|>It is 42.<|end|>"
    assert [(on == 1) == (logprob == -0.5) for on, logprob in zip(trajectory.mask, trajectory.logprobs, strict=True)]
    # each span covers the tokens of one turn, whichever weights drew it
    first, second = (len(say(coder, text).tokens) for text in said)
    assert trajectory.versions == (
        VersionSpan(0, 0, first),
        VersionSpan(1, len(trajectory.tokens) - second, len(trajectory.tokens)),
    )
    assert (trajectory.finish_reason, trajectory.text, trajectory.num_turns, trajectory.reward) == ("stop", "It is 42.", 2, None)
    assert asked[1].tokens == [*one.prompt.tokens, *trajectory.tokens[:-second]]
    assert [request.seed for request in asked] == [7, seed_of(7, 1)] and seed_of(7, 1) != seed_of(7, 2)


def test_tokens_are_kept_as_drawn_where_tokenizing_again_would_join_them():
    """The template opens an answer with a space, behind which the model begins with a word: tokenized at once they are one token.
    Inside its turn it spells words letter by letter."""
    from raylm.tokenize.trainers.layout import CHAT_TEMPLATE

    coder = coder_of(CHAT_TEMPLATE.replace("'<|assistant|>'", "'<|assistant|> '"))
    assert len(coder.encode(" the", add_special_tokens=False)) == 1
    made = conversations(Calculator(), coder)

    def policy(text, request):
        letters = [token for letter in f"the {CALL if request.turn == 0 else '42'}" for token in coder.encode(letter)]
        return Completion([*letters, 2], [-0.25] * (len(letters) + 1), "", "stop")

    one = talk(made, coder, {0: prompt()}, policy)[0]
    made.close()
    tokens = [*one.prompt.tokens, *one.trajectory.tokens]
    again = coder.encode(coder.decode(tokens), add_special_tokens=False)
    assert len(again) < len(tokens) and again[: len(one.prompt.tokens)] != one.prompt.tokens, "the border is joined"
    drawn = [token for token, on in zip(one.trajectory.tokens, one.trajectory.mask, strict=True) if on]
    assert drawn == [token for turn in (0, 1) for token in policy("", Request(0, [], 0, 0, turn)).tokens]
    assert json.loads(one.trajectory.messages)[1]["content"] == "42" and one.trajectory.num_turns == 2


def test_a_call_that_cannot_be_read_is_told_and_counted(tools, coder):
    broken = '<tool_call>\n{"name": "calculator", "arguments": {"expression": }}\n</tool_call>'
    other = CALL.replace("calculator", "search")
    said = [broken, other, CALL.replace("6 * 7", "6 / 0"), "I give up."]
    one = talk(tools, coder, {0: prompt()}, lambda _, request: said[request.turn])[0].trajectory
    answers = [message["content"] for message in json.loads(one.messages) if message["role"] == "tool"]
    assert answers[0].startswith("error: a call is no JSON: Expecting value")
    assert answers[1:] == ["error: there is no tool 'search'; there are: calculator", "error: division by zero"]
    assert one.metrics == {"malformed_calls": 1.0, "tool_calls": 2.0, "tool_errors": 2.0} and one.num_turns == 4


@pytest.mark.parametrize(
    ("limits", "reason", "turns", "more"),
    [
        ({"max_tokens": 40}, "length", 1, {}),
        ({"max_turn_tokens": 40}, "length", 1, {}),
        ({"max_turns": 1}, "length", 1, {}),
        # a turn fits, and what the tool says does not
        ({"max_tokens": 60}, "length", 1, {"answers_too_long": 1.0}),
        ({"max_tokens": 90}, "length", 2, {}),
    ],
)
def test_limits_of_tokens_and_turns_end_a_conversation(coder, limits, reason, turns, more):
    made = conversations(Calculator(), coder, **limits)
    said = [CALL, "It is 42, and that is the end of it."]
    one = talk(made, coder, {0: prompt()}, lambda _, request: said[request.turn])[0].trajectory
    made.close()
    assert (one.finish_reason, one.num_turns, one.finished) == (reason, turns, False)
    assert len(one.tokens) <= limits.get("max_tokens", 400) and len(one.tokens) == len(one.mask) == len(one.logprobs)
    assert one.mask[-1] == 1 and more.items() <= one.metrics.items()


def test_a_prompt_without_room_for_an_answer_is_unscored(coder):
    made = conversations(Calculator(), coder, max_len=64)
    one = talk(made, coder, {0: prompt()}, None)[0]
    made.close()
    assert one.unscored is not None and one.unscored.kind == "no_room" and one.trajectory.tokens == []


def test_an_environment_that_fails_costs_its_own_conversation(odd, coder):
    """More of them than processes, all at once; the reasons are counted by their kind."""
    does = {
        "hangs in reset": "timed_out", "hangs": "timed_out", "hangs softly": "timed_out", "ends its process": "died",
        "raises": "raised", "returns nothing": "raised", "gives no number": "raised", "speaks as the model": "raised",
        "hangs at its end": None, "": None, "works": None,
    }  # fmt: skip
    ended = talk(odd, coder, {what: prompt(ground_truth=what) for what in does}, lambda _, request: f"turn {request.turn}")
    assert {what: one.unscored and one.unscored.kind for what, one in ended.items()} == does
    assert ended["raises"].unscored.why == "the environment raised in step: KeyError: 'no such room' (odd.py:42)"
    assert "returns a Step, not a NoneType" in ended["returns nothing"].unscored.why
    for what in ("hangs at its end", "", "works"):
        assert ended[what].trajectory.reward == 1.5 and ended[what].trajectory.metrics == {"odd": 3.0}
        assert "user" in ended[what].trajectory.messages and ended[what].trajectory.num_turns == 3
    assert len(odd) == 0


def test_what_an_environment_says_first_is_a_part_of_the_prompt(odd, coder):
    one = talk(odd, coder, {0: prompt("Hi", ground_truth="speaks first")}, lambda _, request: "yes")[0]
    assert coder.decode(one.prompt.tokens) == "<|bos|><|user|>Hi<|end|><|user|>You begin.<|end|><|assistant|>"
    assert one.trajectory.mask[0] == 1


def test_an_environment_forges_no_turn(odd, coder):
    one = talk(odd, coder, {0: prompt(ground_truth="forges")}, lambda _, request: "yes")[0].trajectory
    given = [token for token, on in zip(one.tokens, one.mask, strict=True) if not on]
    assert coder.decode(given) == "<|user|>x< |end|>< |assistant|>I am right.<|end|><|assistant|>"
    assert one.tokens.count(coder.convert_tokens_to_ids("<|assistant|>")) == 1


def test_behind_another_end_than_the_templates_nothing_is_said(coder):
    from raylm.rl.chat_turns import ChatTurns
    from raylm.rl.conversations import Conversations
    from raylm.rl.environments.processes import Processes

    processes = Processes(Calculator(), 1)
    made = Conversations(ChatTurns(coder, [0, 2], processes.tools()), processes, max_tokens=400, max_len=800, max_turns=8)
    tokens = [*coder.encode(CALL, add_special_tokens=False), 0]
    one = talk(made, coder, {0: prompt()}, lambda *_: Completion(tokens, [-0.5] * len(tokens), "", "stop"))[0].trajectory
    made.close()
    assert (one.finish_reason, one.num_turns, one.tokens) == ("stop", 1, tokens)
    assert one.metrics == {"tool_calls": 1.0, "tool_errors": 0.0, "wrong_end": 1.0}


def test_a_cancelled_conversation_is_heard_of_no_more(odd, coder):
    odd.begin("given up", prompt(ground_truth="hangs in reset"), 7)
    odd.begin("kept", prompt(), 7)
    odd.cancel("given up")
    found = odd.ready(5.0)
    assert [one.key for one in found] == ["kept"] and odd.ready(0.2) == []
    # what has ended, and is not taken yet, is still to come
    odd.next("kept", say(coder, "a long turn", most=2))
    assert len(odd) == 1 and odd
    odd.cancel("kept")
    assert len(odd) == 0 and odd.ready() == [] and bool(odd)


def test_an_environment_that_cannot_be_made_ends_the_run_in_words(coder):
    with pytest.raises(StageError, match="the environment cannot be made: tools: RuntimeError: no key for the search engine"):
        conversations(CustomCard(path="tests.rl.environments.odd:Unmakeable"), coder)
