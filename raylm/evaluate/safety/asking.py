"""Asks the cases of a safety task, checks that the model reads the attack, tells rates by family and the detector's error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from raylm.core.errors import DataError
from raylm.data.answers import answer_of
from raylm.evaluate.comparison import cluster_of
from raylm.evaluate.instances import Graded, asked_id
from raylm.evaluate.intervals import wilson, worth_of
from raylm.evaluate.safety.errors import Corrected, DetectorError, corrected
from raylm.inference.completions import Sampling

if TYPE_CHECKING:
    from raylm.evaluate.lm import LM


class Case(NamedTuple):
    """One thing that a model is asked."""

    messages: list[dict[str, Any]] | list[int]
    """Messages, or tokens of a rendered prompt."""
    facts: dict[str, str]
    """Slices: `family`, and `cluster` for cases about one topic, which are not independent."""
    judge: Callable[[str], dict[str, float]]
    """What an answer comes to: metric -> 1.0 or 0.0."""
    needles: tuple[str, ...] = ()
    """What the rendered prompt must have in it: a template that drops turns would make every model look safe."""
    shown: str = ""
    """What was asked, for the reader; the messages where it is empty."""


def ask(lm: LM, kind: str, cases: Sequence[Case], max_tokens: int) -> list[Graded]:
    """Greedy answers to all cases, judged.

    Raises:
        DataError: the model's template refuses or drops a turn, or more than a tenth of the cases could not be asked.
    """
    for case in cases:
        check_read(lm, case)
    answers = lm.complete([case.messages for case in cases], Sampling(max_tokens=max_tokens, temperature=0.0))
    graded = []
    for case, answer in zip(cases, answers, strict=True):
        if answer is None:
            continue
        # what a model thinks aloud before (the mark that it must not say, the rule that it weighs) is no answer
        values = case.judge(answer_of(answer.text))
        shown = case.shown or "\n".join(f"[{turn['role']}] {turn['content']}" for turn in case.messages)  # type: ignore[index]
        graded.append(
            Graded(
                asked_id(kind, case.messages),
                values,
                dict.fromkeys(values, 1.0),
                case.facts,
                shown,
                answer.text,
                answer.num_tokens,
                answer.seconds,
            )
        )
    return graded


def check_read(lm: LM, case: Case) -> None:
    """Raises DataError where the model's chat template refuses the turns of a case, or leaves out what it must read. What an
    endpoint renders cannot be seen."""
    tokenizer = lm.tokenizer if lm.reads_tokens else None
    if tokenizer is None or not case.needles or not tokenizer.chat_template:
        return
    import jinja2

    family = case.facts.get("family", "")
    try:
        text = tokenizer.apply_chat_template(case.messages, tokenize=False, add_generation_prompt=True)
    except (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError) as cause:
        raise DataError(
            f"the model's chat template refuses the turns of {family!r}: {cause}", next="leave that family out of the task"
        ) from cause
    if missing := next((needle for needle in case.needles if needle not in text), None):
        raise DataError(
            f"the model's chat template leaves out {missing[:60]!r} of {family!r}: the model would not read the attack",
            next="leave that family out of the task, or give the model a template that renders these turns",
        )


def count(graded: Sequence[Graded], metric: str, **facts: str) -> tuple[int, int]:
    """Instances of a slice in which `metric` is 1, and all of the slice that have it."""
    picked = [one for one in graded if metric in one.values and all(one.facts.get(key) == facts[key] for key in facts)]
    return sum(one.values[metric] > 0 for one in picked), len(picked)


def by_family(graded: Sequence[Graded], metric: str) -> str:
    """`metric by family: role_play 3/12 (9% to 53%), ...`, the worst first, with Wilson's 95 % interval."""
    families = sorted({one.facts.get("family", "") for one in graded if metric in one.values})
    told = []
    for family in families:
        successes, trials = count(graded, metric, family=family)
        low, high = wilson(successes, trials)
        told.append((-successes / trials, f"{family} {successes}/{trials} ({low:.0%} to {high:.0%})"))
    return f"{metric} by family, 95 %: " + ", ".join(words for _, words in sorted(told))


def worth(graded: Sequence[Graded], metric: str, **facts: str) -> float:
    """As many independent instances as those of `count` are: attacks on one topic go the same way (`intervals.worth_of`)."""
    picked = [one for one in graded if metric in one.values and all(one.facts.get(key) == facts[key] for key in facts)]
    clusters = [cluster_of(one) for one in picked]
    if len(set(clusters)) == len(picked):
        return float(len(picked))
    return worth_of([float(one.values[metric] > 0) for one in picked], clusters)


def with_error(successes: int, trials: int, metric: str, error: DetectorError, independent: float | None = None) -> str:
    """The rate as it was counted, what it is without the detector's error, and how large that was measured to be.

    Args:
        independent: as many instances as the trials are worth (`worth`); default: all.
    """
    size = trials if independent is None else independent
    found: Corrected = corrected(successes / trials * size, size, error)
    return (
        f"{metric}: {successes} of {trials} ({successes / trials:.1%}) were called a break-in; {error.in_words()}."
        f" Corrected for that (Rogan-Gladen): {found.rate:.1%}, 95 % from {found.low:.1%} to {found.high:.1%}"
    )
