"""An LM: log-probabilities by hand, answers that are kept, and a run that is killed in the middle."""

from __future__ import annotations

import math
import signal
import subprocess
import sys

import pytest
import torch

from raylm.core.artifact import Prompts
from raylm.core.errors import ConfigError, DataError
from raylm.core.storage import Folder
from raylm.data.answers import answer_of
from raylm.evaluate.continuations import pair_tokens, windows
from raylm.evaluate.examine import Asked, Marks, grade_all
from raylm.evaluate.instances import means
from raylm.evaluate.journal import Journal
from raylm.evaluate.lm import LM
from raylm.evaluate.tasks.answers import Answers
from raylm.inference.completions import BatchSampling, Sampling
from tests.evaluate.fakes import Says
from tests.model.tiny import tiny_checkpoint, tiny_model, tiny_tokenizer
from tests.rows import make_rows

PAIRS = [("A class defines", " a type"), ("A module ", "is a file"), ("", "class"), ("A class defines a new type of", " object")]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    at = tmp_path_factory.mktemp("tiny")
    tiny_checkpoint(at, vocab=300, layers=1)
    return str(at)


def logprobs(tokens):
    with torch.no_grad():
        return tiny_model(vocab=300, layers=1).eval()(torch.tensor([tokens])).logits[0].float().log_softmax(-1)


def test_continuations_after_their_contexts_by_transformers_own_numbers(tiny):
    found = LM(tiny).loglikelihood(PAIRS)

    def encode(text):
        return tiny_tokenizer(300).encode(text, add_special_tokens=False)

    for (context, continuation), (nats, greedy) in zip(PAIRS, found, strict=True):
        whole = encode(context + continuation) if context else [1, *encode(continuation)]
        start = len(encode(context.rstrip())) if context else 1
        says = logprobs(whole)
        assert nats == pytest.approx(sum(float(says[at - 1, whole[at]]) for at in range(start, len(whole))), abs=1e-4)
        assert greedy == all(int(says[at - 1].argmax()) == whole[at] for at in range(start, len(whole)))
    # what the model itself would say is greedy
    context = encode("A class")
    likely = tiny_tokenizer(300).decode([int(logprobs(context)[-1].argmax())])
    row, start = pair_tokens(tiny_tokenizer(300), "A class", likely)
    if row[:start] == context and len(row) == start + 1:
        assert LM(tiny).loglikelihood([("A class", likely)])[0][1]


def test_a_context_that_is_too_long_loses_its_beginning_and_a_continuation_is_never_cut(tmp_path):
    tiny_checkpoint(tmp_path, vocab=300, layers=1, max_len=8)
    tokenizer = tiny_tokenizer(300)
    context = "A class defines a new type of object; a module is a file"
    lm = LM(str(tmp_path))
    nats, _ = lm.loglikelihood([(context, " of code")])[0]
    row, start = pair_tokens(tokenizer, context, " of code")
    cut = row[-9:]
    with torch.no_grad():
        says = tiny_model(vocab=300, layers=1, max_len=8).eval()(torch.tensor([cut[:-1]])).logits[0].log_softmax(-1)
    count = len(row) - start
    assert nats == pytest.approx(sum(float(says[at - 1, cut[at]]) for at in range(9 - count, 9)), abs=1e-4)
    assert lm.notes() == ["1 contexts lost their beginning: the model has no room for them"]
    with pytest.raises(DataError, match="1 of 1 texts with a continuation longer than the model"):
        lm.loglikelihood([("A", context)])


def test_windows_count_each_token_once_and_are_full():
    tokenizer = tiny_tokenizer(300)
    text = "A class defines a new type of object; a module is a file of Python code."
    tokens = tokenizer.encode(text, add_special_tokens=False)
    for most in (4, 7, len(tokens), None):
        found = windows(tokenizer, text, most)
        counted = [token for row, mask in found for token, on in zip(row, mask, strict=True) if on]
        assert counted == tokens
        size = min(most or len(tokens), len(tokens))
        assert [len(row) for row, _ in found] == [size + 1] * len(found)
        assert found[0][0][0] == tokenizer.bos_token_id
    assert windows(tokenizer, "", 4) == []


def test_a_whole_text_is_the_sum_of_its_tokens(tiny):
    text = "A class defines a new type."
    tokens = [1, *tiny_tokenizer(300).encode(text, add_special_tokens=False)]
    says = logprobs(tokens)
    expected = sum(float(says[at - 1, tokens[at]]) for at in range(1, len(tokens)))
    assert LM(tiny).loglikelihood_rolling([text])[0] == pytest.approx(expected, abs=1e-4)


def test_what_was_answered_is_not_asked_again(tiny, tmp_path):
    asked = []

    def say(prompts, _):
        asked.extend(prompts)
        return [f"answer to {len(prompt)}" for prompt in prompts]

    for prompts, new in (([[1, 2], [1, 2, 3], [1, 2]], 2), ([[1, 2], [1, 2, 3, 4]], 1), ([[1, 2, 3], [1, 2, 3, 4]], 0)):
        before = len(asked)
        lm = LM(tiny, answerer=Says(say), journal=Journal(Folder(tmp_path)))
        found = lm.complete(prompts)
        assert [one.text for one in found if one] == [f"answer to {len(prompt)}" for prompt in prompts]
        assert lm.seconds == [0.25] * len(prompts)
        assert len(asked) - before == new
    # other sampling is another question
    lm.complete([[1, 2]], Sampling(max_tokens=3, temperature=0.0))
    lm.samples([[1, 2]], Sampling(max_tokens=3), 1)
    assert len(asked) == 5
    scored = LM(tiny, journal=Journal(Folder(tmp_path / "scores"))).loglikelihood(PAIRS)
    nobody = LM(tiny, journal=Journal(Folder(tmp_path / "scores")))
    nobody._scorer.scores = None
    assert nobody.loglikelihood(PAIRS) == scored


def test_prompts_are_read_in_the_form_that_the_model_has(tiny, tmp_path):
    seen = []

    def say(prompts, _):
        seen.extend(prompts)
        return ["ok"] * len(prompts)

    messages = [{"role": "user", "content": "What is a class?"}]
    tokenizer = tiny_tokenizer(300)
    LM(tiny, answerer=Says(say)).complete(["A class", [1, 5], messages])
    rendered = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert seen == [tokenizer("A class")["input_ids"], [1, 5], rendered]
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="no chat template"):
        LM(str(tmp_path), answerer=Says(say)).complete([messages])
    seen.clear()
    LM(tiny, answerer=Says(say, reads_tokens=False)).complete([messages, "A class"])
    assert seen == [messages, "A class"]
    with pytest.raises(ConfigError, match="log-probabilities alone"):
        LM(tiny).complete(["A class"])


def test_turns_that_a_template_refuses_cost_the_task_and_not_the_stage(tmp_path):
    tokenizer = tiny_tokenizer(300)
    tokenizer.chat_template = "{{ raise_exception('no system turns') }}"
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(DataError, match="refuses these turns: no system turns"):
        LM(str(tmp_path)).rendered([{"role": "system", "content": "x"}])


def test_several_answers_and_stop_texts(tiny):
    lm = LM(tiny, answerer=Says(lambda prompts, _: [["a\nQ: b", "c", "d"] for _ in prompts]))
    groups = lm.samples(["A class"], BatchSampling(stop=["\nQ:"]), 3)
    assert [[one.text for one in group] for group in groups if group] == [["a", "c", "d"]]
    assert [one.finish for one in groups[0]] == ["stop"] * 3


def test_failures_of_the_backend_are_counted_and_not_kept(tiny, tmp_path):
    class Refuses(Says):
        def complete(self, prompts, sampling, seeds):
            for at, found in super().complete(prompts, sampling, seeds):
                yield at, "that the endpoint left unanswered" if at == refused else found

    refused = 3
    prompts = [[1, at] for at in range(2, 14)]
    held = Journal(Folder(tmp_path))
    lm = LM(tiny, answerer=Refuses(lambda prompts, _: ["ok"] * len(prompts)), journal=held)
    assert [one is None for one in lm.complete(prompts)] == [at == 3 for at in range(12)]
    assert lm.notes() == ["without 1 of 12 texts that the endpoint left unanswered"]
    assert len(held.found) == 11
    refused = 0
    with pytest.raises(DataError, match="1 of 1 texts that the endpoint left unanswered"):
        LM(tiny, answerer=Refuses(lambda prompts, _: ["ok"]), journal=Journal(Folder(tmp_path / "new"))).complete([[1, 2]])


def test_the_last_answers_are_in_the_bucket_without_anybody_asking_for_notes(tiny):
    """A judge is asked beside the model, and nobody asks it for notes."""
    folder = Folder("memory://answers-of-a-judge/one")
    LM(tiny, answerer=Says(lambda prompts, _: ["ok"] * len(prompts)), journal=Journal(folder)).complete([[1, 2], [1, 3]])
    assert len(Journal(folder).found) == 2


class Fails(Answers):
    """Leaves a text out and has no grade."""

    def grade(self, lm, rows):
        lm.leave_out([*[""] * 19, "of the failed task"])
        raise DataError("no grade")


def test_what_a_failed_task_left_out_is_not_said_of_the_next_one(tiny, tmp_path):
    make_rows(tmp_path, "prompts", Prompts, ROWS, held_out=len(ROWS))
    marks, uri = Marks(Folder(tmp_path / "marks")), str(tmp_path / "prompts")
    lm = LM(tiny, answerer=Says(lambda prompts, _: ["class"] * len(prompts)))
    tasks = [Asked(0, Fails(rows="prompts"), uri, "fails"), Asked(1, Answers(rows="prompts"), uri, "answers")]
    assert grade_all(lm, tasks, "m", marks) == {0: "no grade"}
    mark = marks.read("m", 1)
    assert mark and mark.note == ""


ROWS = [{"tokens": [1, at], "messages": "[]", "ground_truth": "class"} for at in range(3, 43)]


def graded_until(folder, tokenizer, kill_after=None):
    """The task over 40 prompts; the process is killed in the middle of an answer."""
    import os

    count = 0

    class Counts(Says):
        def complete(self, prompts, sampling, seeds):
            nonlocal count
            for at, prompt in enumerate(prompts):
                if count == kill_after:
                    os.kill(os.getpid(), signal.SIGKILL)
                count += 1
                yield from ((at, found) for _, found in super().complete([prompt], sampling, seeds[at : at + 1]))

    from pathlib import Path

    if not (Path(folder) / "prompts").exists():
        make_rows(Path(folder), "prompts", Prompts, ROWS, held_out=len(ROWS))
    marks = Marks(Folder(folder) / "marks", Folder(folder) / "out")
    lm = LM(
        tokenizer,
        answerer=Counts(lambda prompts, _: ["a class" if prompt[1] % 2 else "no" for prompt in prompts]),
        journal=marks.journal("m", tokenizer),
    )
    assert grade_all(lm, [Asked(0, Answers(rows="prompts"), str(Path(folder) / "prompts"), "answers")], "m", marks) == {}
    return count, marks


def test_a_run_that_is_killed_in_the_middle_asks_only_for_the_missing_instances(tiny, tmp_path):
    script = "import sys; from tests.evaluate.test_lm import *; graded_until(sys.argv[1], sys.argv[2], int(sys.argv[3]))"
    for kill_after in (17, 6):
        done = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path), tiny, str(kill_after)], check=False, capture_output=True
        )
        assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert not (tmp_path / "out").exists()
    count, marks = graded_until(tmp_path, tiny)
    assert count == 40 - 17 - 6
    mark = marks.read("m", 0)
    graded = marks.graded("m", "answers")
    assert len(graded) == 40
    assert mark and mark.grades == means(graded) == {"answers": 0.5}
    assert graded_until(tmp_path, tiny)[0] == 0
    assert not any(math.isnan(one.seconds) for one in graded)


def test_weights_that_were_changed_are_another_model(tiny, tmp_path):
    tiny_checkpoint(tmp_path / "m", vocab=300, layers=1)
    marks = Marks(Folder(tmp_path / "marks"))
    marks.journal("m", str(tmp_path / "m")).add("k", 1)
    assert marks.journal("m", str(tmp_path / "m")).found == {"k": 1}
    tiny_checkpoint(tmp_path / "m", vocab=300, layers=1)
    assert marks.journal("m", str(tmp_path / "m")).found == {}


def test_an_answer_behind_a_thought_that_the_template_opens_tells_it(tiny):
    """Cut off within the thought it is no answer, whatever it mentions."""
    lm = LM(tiny, answerer=Says(lambda prompts, most: ["it may be 4"] * len(prompts)))
    lm.tokenizer.chat_template = (
        "{% for each in messages %}{{ each.content }}{% endfor %}{% if add_generation_prompt %}<think>\n{% endif %}"
    )
    texts = lm.answers([[{"role": "user", "content": "2 + 2?"}], "2 + 2 <think>\n", "2 + 2 ="], 8)
    assert texts == ["<think>\nit may be 4", "<think>\nit may be 4", "it may be 4"]
    assert [answer_of(text) for text in texts] == ["", "", "it may be 4"]
