"""Hand-made rollouts of two prompts, and what was learned from one of them."""

from __future__ import annotations

from raylm.inference.completions import VersionSpan
from raylm.rl.types import Experience, Prompt, Rollout, Score, Trajectory, Unscored, experience_of

PROMPTS = [
    Prompt(3, [1, 40], '[{"role": "user", "content": "What is <2 + 2>?"}]', "4", source="sums"),
    Prompt(8, [1, 41], "plain words", None, source="words"),
]


def rollout(prompt: Prompt, tokens: list[int], score: float | None, **changes) -> Rollout:
    """A completion by versions 4 and 5 of the weights, scored by two rewards."""
    half = len(tokens) // 2
    spans = (VersionSpan(4, 0, half), VersionSpan(5, half, len(tokens)))
    drawn = Trajectory(tokens, [-0.5] * len(tokens), f"says {tokens}", "stop", spans)._replace(**changes)
    if score is None:
        return Rollout(prompt, drawn, None, Unscored("raised", "a reward raised KeyError"))
    parts = {"answer": Score(score, "right" if score else "wrong"), "length": Score(0.25, "short")}
    return Rollout(prompt, drawn, Score(score + 0.25, "right; short"), parts=parts)


def some(offset: int = 0) -> list[Rollout]:
    """A group of two that differ, and a group that scores alike beside one without a score."""
    sums, words = PROMPTS
    return [
        rollout(sums, [5 + offset, 6], 1.0),
        rollout(sums, [7 + offset, 8, 9], 0.0, finish_reason="length"),
        rollout(words, [5, 5], 0.5),
        rollout(words, [6, 6], 0.5),
        rollout(words, [6, 7], None),
    ]


def learned(rollouts: list[Rollout]) -> Experience:
    """Advantages of the first group alone, as grpo leaves the second out."""
    made = experience_of(rollouts, [3, 8], 0)
    signs = {3: (0.5, -0.5)}
    samples = [
        one._replace(advantages=[signs[3][place]] * len(one.logprobs))
        for place, one in enumerate(sample for sample in made.samples if sample.row == 3)
    ]
    return made._replace(samples=samples)
