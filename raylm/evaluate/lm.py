"""One model under evaluation, whatever stands behind it: transformers on a worker, generators, or an endpoint.

    task --> LM --> journal: was this asked before? --> scorer | answerer --> journal

Tasks talk to this alone. Every answer is kept as it comes, so a run that died asks only for what is missing.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from raylm.core.errors import ConfigError, DataError
from raylm.data.answers import from_its_thought, opens_thought
from raylm.evaluate.backends.backend import Answer, Answerer, Prompt, Score, Scorer
from raylm.evaluate.backends.transformers_scorer import TransformersScorer
from raylm.evaluate.continuations import pair_tokens, windows
from raylm.evaluate.instances import asked_id
from raylm.evaluate.journal import Journal
from raylm.evaluate.requests import MOST_LEFT_OUT, counted, few, seed_of, stopped, too_long
from raylm.inference.completions import Sampling
from raylm.model.shapes.shape import Shape

GREEDY = Sampling(temperature=0.0)


class LM:
    """A model. Texts that it cannot be asked about are left out of a grade and counted.

    Args:
        path: where its files lie; of a fresh model, where its tokenizer lies. "" for a model behind an endpoint.
        fresh: shape, token facts and seed of a model to measure before its first step.
        scorer: gives log-probabilities; default: transformers in this process, with the files at `path`.
        answerer: answers prompts; None where only log-probabilities are asked for.
        valuer: asks a task's reward model for the values of sequences.
        journal: what was answered before, and where answers are kept.
        beside: makes an LM of another model of the stage: who it is, most tokens of prompt and answer.
    """

    def __init__(
        self,
        path: str,
        fresh: tuple[Shape, dict[str, Any], int] | None = None,
        *,
        scorer: Scorer | None = None,
        answerer: Answerer | None = None,
        valuer: Any = None,
        journal: Journal | None = None,
        beside: Callable[[Any, int], LM] | None = None,
    ) -> None:
        self._scorer: Scorer = scorer or TransformersScorer(path, fresh)
        self._answerer, self._valuer, self._journal = answerer, valuer, journal or Journal(None)
        self._left_out: Counter[str] = Counter()
        self._at_hand = os.path.isdir(path)
        self._beside, self._notes = beside, list[str]()
        self._asked = self._cut = 0
        self.seconds: list[float] = []
        """Of each request of the last call, 0 for one that was left out."""

    @property
    def tokenizer(self) -> Any:
        """The model's own; None for an endpoint that names none."""
        return self._scorer.tokenizer

    @property
    def reads_tokens(self) -> bool:
        """Prompts may be token ids of its tokenizer; else it is asked by texts and messages."""
        return self._answerer is None or self._answerer.reads_tokens

    @property
    def room(self) -> int | None:
        """Most tokens of a prompt and its answer together; None for any number, and where no answers are asked for."""
        return None if self._answerer is None else self._answerer.room

    def beside(self, model: Any, room: int) -> LM:
        """Another model, which judges this one's answers.

        Args:
            model: a checkpoint or an endpoint as the job names it, or an EndpointSpec.
            room: most tokens of prompt and answer that are asked of it.
        """
        if self._beside is None:
            raise ConfigError("no other model can be asked here", next='a task that asks one says needs = "generate"')
        return self._beside(model, room)

    def logprob_sums(self, tokens: Sequence[Any], masks: Sequence[Any]) -> list[float]:
        """Sum of log-probabilities over each row's counted tokens, in nats; NaN for a row that could not be scored.

        Raises:
            DataError: more than a tenth of the rows could not be scored, or a token id lies beyond the model's embedding.
        """
        most = self._scorer.positions()
        reasons = [self._unfit(row, mask, most) for row, mask in zip(tokens, masks, strict=True)]
        return [score.nats if score else math.nan for score in self._scores(tokens, masks, reasons, greedy=False)]

    def loglikelihood(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
        """Log-probability of each continuation after its context, in nats, and whether greedy decoding would draw it; (NaN,
        False) for a pair that could not be scored. Spaces at the end of a context are read as the beginning of the continuation,
        and a context that is too long loses its first tokens (both as in https://github.com/EleutherAI/lm-evaluation-harness).

        Raises:
            DataError: more than a tenth of the pairs could not be scored.
        """
        most = self._scorer.positions()
        rows, masks, reasons = [], [], []
        for context, continuation in pairs:
            row, start = pair_tokens(self.tokenizer, context, continuation)
            # the last token is asked for and is no input
            lost = max(len(row) - (most + 1), 0) if most else 0
            self._cut += 0 < lost < start
            rows.append(row[lost:])
            masks.append([int(at + lost >= start) for at in range(len(row) - lost)])
            longer = "with a continuation longer than the model" if lost >= start else ""
            reasons.append(longer or self._unfit(rows[-1], masks[-1], None))
        found = self._scores(rows, masks, reasons, greedy=True)
        return [(score.nats, score.greedy) if score else (math.nan, False) for score in found]

    def loglikelihood_rolling(self, texts: Sequence[str], special_tokens: bool = False) -> list[float]:
        """Log-probability of each whole text, in nats, begin or end token before it; NaN for one that could not be scored. A text
        longer than the model is read in windows: each token counts once, with as much before it as there is room for.

        Args:
            special_tokens: tokens that the tokenizer itself writes around a text count as if they were text, as with lm-eval.

        Raises:
            DataError: more than a tenth of the texts could not be scored.
        """
        most = self._scorer.positions()
        parts = [windows(self.tokenizer, text, most, special_tokens) for text in texts]
        rows = [(row, mask) for each in parts for row, mask in each]
        self.leave_out(["" if each else "empty" for each in parts])
        found = iter(self._scores([row for row, _ in rows], [mask for _, mask in rows], [""] * len(rows), greedy=False))
        seconds, sums, spent = iter(self.seconds), [], []
        for each in parts:
            scores = [next(found) for _ in each]
            spent.append(sum(next(seconds) for _ in each))
            sums.append(math.fsum(score.nats if score else math.nan for score in scores) if each else math.nan)
        self.seconds = spent
        return sums

    def complete(self, prompts: Sequence[Prompt], sampling: Sampling = GREEDY) -> list[Answer | None]:
        """The answer to each prompt: a text, token ids, or messages (by the model's chat template); None for one that could not
        be asked.

        Args:
            sampling: with a temperature, a prompt's draw depends on it and `sampling.seed` alone. A `BatchSampling` may name stop
                texts: they end the text, whatever the engine does of them.

        Raises:
            DataError: more than a tenth could not be asked.
            ConfigError: the model cannot read such prompts.
        """
        return [group[0] if group else None for group in self.samples(prompts, sampling, 1)]

    def samples(self, prompts: Sequence[Prompt], sampling: Sampling, n: int) -> list[list[Answer] | None]:
        """`n` answers to each prompt, as `complete` else: for self-consistency, pass@k."""
        answerer = self._answerer
        if answerer is None:
            raise ConfigError(
                "this model is asked for log-probabilities alone", next='a task that asks for answers says needs = "generate"'
            )
        sampling = sampling.model_copy(update={"n": n})
        read = [self._readable(prompt) for prompt in prompts]
        room = None if answerer.room is None else answerer.room - sampling.max_tokens
        reasons = [too_long(prompt, room) for prompt in read]
        # whole identity: what a later kind of sampling adds is in it
        keys = [asked_id("complete", prompt, type(sampling).__name__, sampling.model_dump(mode="json")) for prompt in read]
        seeds = [seed_of(key) for key in keys]

        def ask(places: list[int]) -> Iterator[tuple[int, Any]]:
            for at, found in answerer.complete([read[at] for at in places], sampling, [seeds[at] for at in places]):
                yield at, found if isinstance(found, str) else [stopped(one, sampling) for one in found]

        found = self._known(keys, reasons, ask, lambda group: [list(one) for one in group])
        groups = [
            None if each is None else [self._from_its_thought(prompt, Answer(*one)) for one in each]
            for prompt, each in zip(read, found, strict=True)
        ]
        self.seconds = [group[0].seconds if group else 0.0 for group in groups]
        return groups

    def answers(self, prompts: Sequence[Prompt], max_tokens: int) -> list[str | None]:
        """Greedy answers as text; None for a prompt that could not be asked.

        Raises:
            DataError: more than a tenth could not be asked.
        """
        sampling = Sampling(max_tokens=max_tokens, temperature=0.0)
        return [None if one is None else one.text for one in self.complete(prompts, sampling)]

    def drawn(self, prompts: Sequence[Prompt], max_tokens: int) -> list[list[int] | None]:
        """Greedy answers as the tokens that were drawn, as `answers` else. Raises ConfigError for an endpoint: it tells none."""
        if not self.reads_tokens:
            raise ConfigError("an endpoint does not tell which tokens it drew", next="name the checkpoint itself")
        sampling = Sampling(max_tokens=max_tokens, temperature=0.0)
        return [None if one is None else one.tokens for one in self.complete(prompts, sampling)]

    def values(self, card: Any, sequences: list[list[int]]) -> list[float]:
        """What the reward model `card.model` says at the end of each sequence.

        Raises:
            DataError: it reads other tokens than the task's rows have.
        """
        keys = [asked_id("value", card.model, tokens) for tokens in sequences]

        def ask(places: list[int]) -> Iterator[tuple[int, Any]]:
            yield from enumerate(self._valuer(card, [sequences[at] for at in places]))

        return self._known(keys, [""] * len(keys), ask, float)

    def prompt(self, row: dict[str, Any]) -> Prompt:
        """What a row of Prompts asks, in the form that this model reads: its token ids, or its messages.

        Raises:
            DataError: an endpoint is asked, and the row holds no messages.
        """
        if self.reads_tokens:
            return [int(token) for token in row["tokens"]]
        messages = json.loads(row.get("messages") or "[]")
        if not messages:
            raise DataError("the prompts hold no messages, which an endpoint is asked by", next="tokenize them with form prompts")
        return messages

    def rendered(self, messages: Sequence[dict[str, Any]]) -> list[int]:
        """Messages that wait for an answer, as tokens by the model's chat template.

        Raises:
            ConfigError: its tokenizer has none.
            DataError: the template refuses these turns.
        """
        import jinja2

        if not self.tokenizer.chat_template:
            raise ConfigError("messages are asked, and the model's tokenizer has no chat template")
        try:
            text = self.tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        except jinja2.TemplateError as cause:
            raise DataError(f"the model's chat template refuses these turns: {cause}", where=str(messages)[:120]) from cause
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def note(self, text: str) -> None:
        """Something that the reader of the grades has to know."""
        self._notes.append(text)

    def text(self, tokens: Any) -> str:
        """Tokens as text, without special tokens."""
        return self.tokenizer.decode(tokens, skip_special_tokens=True)

    def positions(self) -> int | None:
        """Longest text that the model was made for, in tokens; None where it says nothing of that."""
        return self._scorer.positions()

    def notes(self) -> list[str]:
        """What is to be said of the answers since the last call: texts that were left out, contexts that were cut."""
        left = [f"without {counted(self._left_out, self._asked)}"] if self._left_out else []
        cut = [f"{self._cut} contexts lost their beginning: the model has no room for them"] if self._cut else []
        told = [*self._notes, *left, *cut]
        self._left_out, self._asked, self._cut, self._notes = Counter(), 0, 0, []
        self._journal.flush()
        return told

    def leave_out(self, reasons: Sequence[str]) -> None:
        """Count the texts that cannot be asked about: a reason for each text, "" where there is none.

        Raises:
            DataError: they are more than a tenth, or there are no texts.
        """
        self._left_out += few(reasons)
        self._asked = max(self._asked, len(reasons))

    def enough(self, graded: Sequence[Any], asked: int) -> None:
        """Each step of a task may leave a tenth out; all of them together may not leave out more.

        Raises:
            DataError: more than a tenth of `asked` instances have no grade.
        """
        if (lost := asked - len(graded)) > MOST_LEFT_OUT * asked:
            told = f": {counted(self._left_out, self._asked)}" if self._left_out else ""
            raise DataError(f"no grade: {lost} of {asked} instances have none{told}", next="look at the model and at the rows")

    def _scores(self, rows: Sequence[Any], masks: Sequence[Any], reasons: list[str], greedy: bool) -> list[Score | None]:
        keys = [asked_id("score", row, mask, greedy) for row, mask in zip(rows, masks, strict=True)]

        def ask(places: list[int]) -> Iterator[tuple[int, Any]]:
            scores = self._scorer.scores([rows[at] for at in places], [masks[at] for at in places], greedy)
            for at, found in scores:
                finite = isinstance(found, str) or math.isfinite(found.nats)
                yield at, found if finite else "without a finite score"

        found = [None if each is None else Score(*each) for each in self._known(keys, reasons, ask, list)]
        self.seconds = [score.seconds if score else 0.0 for score in found]
        return found

    def _known(
        self,
        keys: list[str],
        reasons: list[str],
        ask: Callable[[list[int]], Iterator[tuple[int, Any]]],
        plain: Callable[[Any], Any],
    ) -> list[Any]:
        """The answer to each request as the journal has it, None for one that is left out.

        Args:
            reasons: why a request cannot be asked, "" where it can.
            ask: answers to the requests at these places, as they come: place among them, and an answer or a reason.
            plain: an answer as JSON.
        """
        few(reasons)
        # what is asked twice is answered once
        missing = {key: at for at, key in enumerate(keys) if not reasons[at] and key not in self._journal.found}
        places, failed = list(missing.values()), dict[str, str]()
        try:
            for at, found in ask(places) if places else ():
                if isinstance(found, str):
                    failed[keys[places[at]]] = found
                else:
                    self._journal.add(keys[places[at]], plain(found))
        finally:
            if places:
                # in a bucket the last answers still wait, and of a judge nobody asks for notes
                self._journal.flush()
        self.leave_out([why or failed.get(key, "") for key, why in zip(keys, reasons, strict=True)])
        return [None if why else self._journal.found.get(key) for key, why in zip(keys, reasons, strict=True)]

    def _unfit(self, row: Any, mask: Any, most: int | None) -> str:
        """Why a row cannot be scored, "" when it can. Raises DataError for a token that the model has not."""
        import numpy as np

        if len(row) == 0 or not np.any(np.asarray(mask)[1:]):
            return "empty"
        known = self._scorer.vocabulary()
        if known is not None and int(np.max(row)) >= known:
            raise DataError(f"token {int(np.max(row))} of the rows lies beyond the model's embedding of {known}")
        return too_long(row, most)

    def _from_its_thought(self, prompt: Any, answer: Answer) -> Answer:
        """The answer with the opening of its thought where the prompt ends with that: so that one which was cut off within the
        thought is told from an answer. An endpoint that is asked by messages does not show its prompt."""
        if isinstance(prompt, str):
            asked = prompt
        elif prompt and not isinstance(prompt[0], dict) and self._at_hand:
            asked = self.tokenizer.decode(prompt[-16:])
        else:
            return answer
        return answer._replace(text=from_its_thought(answer.text)) if opens_thought(asked) else answer

    def _readable(self, prompt: Prompt) -> Any:
        """A prompt in the form that the backend reads."""
        chat = not isinstance(prompt, str) and len(prompt) > 0 and isinstance(prompt[0], dict)
        if not self.reads_tokens:
            if not isinstance(prompt, str) and not chat and self.tokenizer is None:
                raise ConfigError(
                    "token ids are no prompt for an endpoint whose tokenizer is not known",
                    next="give its entry in `endpoints` a `tokenizer`",
                )
            return prompt if isinstance(prompt, str) or chat else [int(token) for token in prompt]  # type: ignore[arg-type]
        if isinstance(prompt, str):
            return self.tokenizer(prompt)["input_ids"]
        if chat:
            return self.rendered(prompt)  # type: ignore[arg-type]
        return [int(token) for token in prompt]  # type: ignore[arg-type]
