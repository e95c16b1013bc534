r"""Whether a text gives the true answer; numbers are compared by their exact value.

Where a text marks its answer (`\boxed{42}`, `#### 42`), only what is marked counts.
"""

from __future__ import annotations

import re

from raylm.data.numbers import number, numbers

_BEGIN, _END = "<think>", "</think>"
_MARK = re.compile(r"####[ \t]*([^\n]+)")


def ground_truth_of(value: object) -> str | None:
    """A true answer as it came with a row: its text, or None where there is nothing to compare with."""
    text = "" if value is None else str(value).strip()
    return text or None


def says(text: str, answer: str) -> bool:
    """Whether `text` says `answer` as a whole word, or as a number of the same value."""
    text, answer = final(text), final(answer).strip()
    if not answer:
        return False
    wanted = number(answer)
    if wanted is not None:
        return any(found.same(wanted) and not found.word for found in numbers(text))
    # an answer that begins or ends with digits (3 apples) must not be a part of a longer number
    before = r"(?<![\w.,/^\u2212-])" if answer[0].isdigit() else r"(?<!\w)"
    after = r"(?!\w|[.,/]\d)" if answer[-1].isdigit() else r"(?!\w)"
    return re.search(f"{before}{re.escape(answer)}{after}", text, re.IGNORECASE) is not None


def same(one: str, other: str) -> bool:
    """Whether two answers are one: the same word, or the same number."""
    left, right = number(one), number(other)
    return left.same(right) if left and right else one.strip().casefold() == other.strip().casefold()


def last_number_is(text: str, answer: str) -> bool | None:
    """Whether the last numbers of both are the same; None when `answer` has none."""
    given, wanted = numbers(final(text)), numbers(final(answer))
    if not wanted:
        return None
    return bool(given) and given[-1].same(wanted[-1])


def answer_of(text: str, opened: bool = False) -> str:
    """What a model answers, without what it thought aloud before; nothing where the thought did not come to its end.

    Args:
        opened: the prompt has begun the thought already, as the templates of some models do.
    """
    if _END in text:
        return text.rpartition(_END)[2]
    return "" if opened or text.lstrip().startswith(_BEGIN) else text


def opens_thought(prompt: str) -> bool:
    """Whether a rendered prompt ends within a thought that the model is to go on with."""
    return prompt.rstrip().endswith(_BEGIN)


def from_its_thought(text: str) -> str:
    """A completion behind a prompt that opened its thought, with that opening."""
    return f"{_BEGIN}\n{text}"


def final(text: str) -> str:
    """What a text marks as its answer, last mark first; all of it where nothing is marked."""
    at = text.rfind("\\boxed{")
    if at >= 0 and (boxed := _braced(text[at + len("\\boxed{") :])) is not None:
        return boxed
    marked = _MARK.findall(text)
    return marked[-1] if marked else text


def _braced(text: str) -> str | None:
    """The beginning of `text` up to the brace that closes it; None when none does."""
    depth = 1
    for at, letter in enumerate(text):
        depth += (letter == "{") - (letter == "}")
        if depth == 0:
            return text[:at]
    return None
