"""Compares what a consumer said of the prompts with what transformers said: prompt ids, greedy tokens, log-probabilities."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from raylm.compress.consumers.consumer import UNTOLD, Logprobs, Prompt, Ran

# probability that is left to tokens of which nobody told: below this it is noise of float32
LEAST_REST = 1e-6
LEAST_NATS = -87.0
BLANK = " \t\r\n\ufffd"


class Verdict(NamedTuple):
    """One consumer on all prompts."""

    consumer: str
    version: str
    unproved: str = ""
    """Why it was not run: not installed, or it does not read this."""
    failed: str = ""
    """Its last words, where it gave no answers."""
    prompts: int = 0
    ids_equal: int = 0
    """Prompts of which it made the same tokens; of a program that does not tell ids, as many of them."""
    tells_ids: bool = True
    tokens_equal: int = 0
    """Prompts answered by the same tokens (by the same text, where it tells no tokens), to the end."""
    near_ties: int = 0
    """Prompts where it took another token that the reference holds for as likely, within `noise`; not compared from there on."""
    untold: int = 0
    """Prompts whose answer the program has no words for."""
    differ: int = 0
    """Prompts answered otherwise."""
    kl: float | None = None
    """Mean KL(reference || consumer) per position, in nats; None where it tells no log-probabilities."""
    rounded_kl: float | None = None
    """The same from transformers with the weights rounded as the files have them, of formats that say how that is."""
    rounded_differ: int = 0
    """Prompts answered otherwise than by these."""
    positions: int = 0
    """Positions of that mean: those with the same tokens before them."""
    first_ids: str = ""
    """The first prompt token that differs."""
    first_token: str = ""
    """The first answer token that differs."""

    def words(self) -> str:
        """In one line."""
        if self.unproved or self.failed:
            return f"not proved: {self.unproved}" if self.unproved else f"failed: {self.failed}"
        told = "" if self.tells_ids else " (by their number)"
        near = f", {self.near_ties} near-ties" if self.near_ties else ""
        near += f", {self.untold} that it cannot tell" if self.untold else ""
        kl = "" if self.kl is None else f", KL {self.kl:.2g}"
        kl += "" if self.rounded_kl is None else f" ({self.rounded_kl:.2g} from the same rounded weights)"
        return f"ids {self.ids_equal}/{self.prompts}{told}, answers {self.tokens_equal}/{self.prompts}{near}{kl}"


def compare(
    verdict: Verdict, prompts: list[Prompt], reference: list[Ran], answers: list[Ran], noise: float, tokenizer: Any
) -> Verdict:
    """`verdict` with its counts.

    Args:
        noise: difference of log-probabilities, in nats, that the format's own arithmetic makes: of two tokens that are closer in
            the reference either may be the likelier.
    """
    nats: list[float] = []
    counts: dict[str, Any] = {"ids_equal": 0, "tokens_equal": 0, "near_ties": 0, "untold": 0, "differ": 0}
    first_ids = first_token = ""
    for prompt, mine, theirs in zip(prompts, reference, answers, strict=True):
        if theirs.num_prompt_tokens == UNTOLD:
            counts["untold"] += 1
            continue
        if where := _other_ids(mine, theirs, tokenizer):
            # an answer to another prompt says nothing
            first_ids = first_ids or f"{_named(prompt)}: {where}"
            continue
        counts["ids_equal"] += 1
        at = _first_difference(mine, theirs, tokenizer)
        if mine.logprobs is not None and theirs.logprobs is not None:
            nats += kl(mine.logprobs, theirs.logprobs, None if at is None else at + 1)
        if at is None:
            counts["tokens_equal"] += 1
        elif _is_near_tie(mine, theirs, at, noise):
            counts["near_ties"] += 1
        else:
            counts["differ"] += 1
            first_token = first_token or f"{_named(prompt)}: {_difference(mine, theirs, at, tokenizer)}"
    return verdict._replace(
        prompts=len(prompts),
        tells_ids=all(ran.prompt_ids is not None for ran in answers),
        kl=sum(nats) / len(nats) if nats else None,
        positions=len(nats),
        first_ids=first_ids,
        first_token=first_token,
        **counts,
    )


def kl(mine: Logprobs, theirs: Logprobs, most: int | None = None) -> list[float]:
    """KL(mine || theirs) in nats at each position that both tell of, over the tokens that both tell of and one rest: no larger
    than that over the whole vocabulary, equal where all of it is told."""
    import numpy as np

    found = []
    for row in range(min(len(mine.ids), len(theirs.ids), len(mine.ids) if most is None else most)):
        told = theirs.ids[row] >= 0
        shared, left, right = np.intersect1d(mine.ids[row], theirs.ids[row][told], assume_unique=True, return_indices=True)
        if not len(shared):
            continue
        # a probability of zero is what float32 makes of a small one
        p = np.maximum(mine.values[row][left].astype(np.float64), LEAST_NATS)
        q = np.maximum(theirs.values[row][told][right].astype(np.float64), LEAST_NATS)
        total = float((np.exp(p) * (p - q)).sum())
        rests = 1 - np.exp(p).sum(), 1 - np.exp(q).sum()
        if rests[0] > LEAST_REST:
            total += float(rests[0] * np.log(rests[0] / max(rests[1], LEAST_REST)))
        # a program whose numbers are none is not equal: NaN stays
        found.append(total if total > 0 or math.isnan(total) else 0.0)
    return found


def _other_ids(mine: Ran, theirs: Ran, tokenizer: Any) -> str:
    ours, found = mine.prompt_ids or [], theirs.prompt_ids
    if found is None:
        same = theirs.num_prompt_tokens == len(ours)
        return "" if same else f"{theirs.num_prompt_tokens} prompt tokens, transformers makes {len(ours)}"
    at = next((n for n, (a, b) in enumerate(zip(ours, found, strict=False)) if a != b), min(len(ours), len(found)))
    if at == len(ours) == len(found):
        return ""
    return f"prompt token {at} is {_token(found, at, tokenizer)}, transformers makes {_token(ours, at, tokenizer)}"


def _first_difference(mine: Ran, theirs: Ran, tokenizer: Any) -> int | None:
    if theirs.tokens is None:
        # programs leave special tokens out, and a character that did not come to its end
        bare = tokenizer.decode(mine.tokens or [], skip_special_tokens=True)
        same = theirs.text.strip(BLANK) in (mine.text.strip(BLANK), bare.strip(BLANK))
        return None if same else 0
    ours, found = mine.tokens or [], theirs.tokens
    at = next((n for n, (a, b) in enumerate(zip(ours, found, strict=False)) if a != b), min(len(ours), len(found)))
    return None if at == len(ours) == len(found) else at


def _is_near_tie(mine: Ran, theirs: Ran, at: int, noise: float) -> bool:
    if mine.logprobs is None or at >= len(mine.logprobs.ids):
        return False
    if theirs.tokens is None:
        # where in the text they part is not known by token: at any place that the reference cannot tell apart
        return bool((mine.logprobs.values[:, 0] - mine.logprobs.values[:, 1] < noise).any())
    ids, values = mine.logprobs.ids[at], mine.logprobs.values[at]
    close = ids[1:][values[1:] > values[0] - noise].tolist()
    # what ended there ended by one of the tokens that are as likely
    return theirs.tokens[at] in close if at < len(theirs.tokens) else bool(close)


def _difference(mine: Ran, theirs: Ran, at: int, tokenizer: Any) -> str:
    if theirs.tokens is None:
        return f"answers {theirs.text[:60]!r}, transformers {mine.text[:60]!r}"
    found, ours = _token(theirs.tokens, at, tokenizer), _token(mine.tokens or [], at, tokenizer)
    said = f"answer token {at} is {found}, transformers says {ours}"
    if mine.logprobs is not None and at < len(mine.logprobs.ids):
        values = mine.logprobs.values[at]
        said += f" (its two likeliest are {values[0] - values[1]:.3g} nats apart)"
    return said


def _token(ids: list[int], at: int, tokenizer: Any) -> str:
    return f"{ids[at]} {tokenizer.decode([ids[at]])!r}" if at < len(ids) else "the end"


def _named(prompt: Prompt) -> str:
    text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
    return f"{'text' if isinstance(prompt, str) else 'conversation'} {text[:50]!r}"
