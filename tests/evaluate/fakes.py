"""What stands behind an LM in tests of tasks: answers that are written down, through the real interface."""

from __future__ import annotations

from raylm.evaluate.backends.backend import Answer


class Says:
    """An answerer.

    Args:
        answer: (prompts, max_tokens) -> a text or token ids for each; or, of several answers each, a list of texts.
        room: most tokens of prompt and answer.
        reads_tokens: false for one that is asked by texts and messages, as endpoints are.
    """

    def __init__(self, answer, room=None, reads_tokens=True):
        self._answer, self.room, self.reads_tokens = answer, room, reads_tokens

    def complete(self, prompts, sampling, seeds):
        for at, found in enumerate(self._answer(list(prompts), sampling.max_tokens)):
            texts = found if isinstance(found, list) and sampling.n > 1 else [found]
            yield at, [_answer(each) for each in texts]


def _answer(said):
    return (
        Answer(said, [], "stop", 0.25, len(said.split())) if isinstance(said, str) else Answer("", said, "stop", 0.25, len(said))
    )
