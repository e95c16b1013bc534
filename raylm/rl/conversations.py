"""Conversations of the model with an environment: from a prompt to requests for the generators, and at last to a trajectory.

begin(key, prompt) -> reset --> Request --> generator --> next(key, completion) -> step --> Request ... --> Ended
                        \\_________ `ready` gives each of them when its process has answered __________/

The trajectory's tokens are those that were drawn and, between them, what the chat template writes for the environment's answers.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from raylm.core.errors import DataError
from raylm.inference.completions import Completion, VersionSpan
from raylm.rl.chat_turns import ChatTurns, turn_of
from raylm.rl.environments.environment import Call, Message, Step, Turn
from raylm.rl.environments.process import Failed
from raylm.rl.environments.processes import Processes
from raylm.rl.types import Prompt, Trajectory, Unscored

REWRITTEN, WRONG_END, TOO_LONG = "rewritten_turns", "wrong_end", "answers_too_long"
MALFORMED = "malformed_calls"


class Request(NamedTuple):
    """What a generator is asked: one completion of these tokens."""

    key: Hashable
    tokens: list[int]
    """Of all that was said so far."""
    max_tokens: int
    seed: int
    turn: int
    """Turns of the model before this one."""


class Ended(NamedTuple):
    """A conversation that is over."""

    key: Hashable
    prompt: Prompt
    """As it was asked: with the environment's tools and what it said first."""
    trajectory: Trajectory
    unscored: Unscored | None = None
    """Why it cannot be scored: the environment raised, hung, ended its process; or there was no room for an answer."""


@dataclass
class _Conversation:
    prompt: Prompt
    seed: int
    messages: list[Message]
    reward: float | None
    rendered: str = ""
    said: str = ""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    mask: list[int] = field(default_factory=list)
    versions: list[VersionSpan] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    turns: int = 0
    before: int = 0
    """Messages of the prompt."""
    ended_well: bool = True

    def count(self, name: str, number: float = 1.0) -> None:
        self.metrics[name] = self.metrics.get(name, 0.0) + number


class Conversations:
    """All conversations under way.

    Args:
        chat: the model's chat template, with the environment's tools.
        processes: where the environment runs.
        max_tokens: most tokens after the prompt, of model and environment together.
        max_len: most tokens with the prompt.
        max_turns: most turns of the model.
        max_turn_tokens: most tokens of one turn; None: as many as are left.
        timeout_s: seconds in which the environment must answer one turn.
        rewarded: the environment gives rewards: a conversation without any has 0.
    """

    def __init__(
        self,
        chat: ChatTurns,
        processes: Processes,
        *,
        max_tokens: int,
        max_len: int,
        max_turns: int,
        max_turn_tokens: int | None = None,
        timeout_s: float = 60.0,
        rewarded: bool = False,
    ) -> None:
        self._chat, self._processes = chat, processes
        self._max_tokens, self._max_len, self._max_turns = max_tokens, max_len, max_turns
        self._max_turn_tokens, self._timeout_s, self._rewarded = max_turn_tokens or max_tokens, timeout_s, rewarded
        self._open: dict[Hashable, _Conversation] = {}
        self._ready: list[Request | Ended] = []

    def __len__(self) -> int:
        """Conversations of which something is still to come by `ready`."""
        return len(self._open) + sum(isinstance(each, Ended) for each in self._ready)

    def __bool__(self) -> bool:
        """There are conversations, also while none is under way."""
        return True

    def limit(self, max_len: int) -> None:
        """Take `max_len` for the most tokens of a prompt and what follows it."""
        self._max_len = max_len

    def asked(self, prompts: list[Prompt]) -> list[Prompt]:
        """The prompts with the environment's tools in them, as the model is asked. Raises DataError if refused."""
        return [prompt._replace(tokens=self._chat.prompt(json.loads(prompt.messages))[0]) for prompt in prompts]

    def begin(self, key: Hashable, prompt: Prompt, seed: int) -> None:
        """One more conversation; its first request comes by `ready`, when the environment has been reset.

        Args:
            key: any that no other conversation under way has.
            seed: what its completions are drawn with; each turn has its own of it.
        """
        messages = json.loads(prompt.messages)
        self._open[key] = _Conversation(prompt, seed, messages, 0.0 if self._rewarded else None, before=len(messages))
        self._processes.call(key, "reset", prompt, self._timeout_s)

    def next(self, key: Hashable, completion: Completion) -> None:
        """The completion of this conversation's last request; what becomes of it comes by `ready`."""
        one = self._open[key]
        text, parsed, one.ended_well = self._chat.parse(completion.tokens)
        at = len(one.tokens)
        one.versions += [VersionSpan(span.version, at + span.start, at + span.end) for span in completion.versions]
        one.tokens += completion.tokens
        one.logprobs += completion.logprobs
        one.mask += [1] * len(completion.tokens)
        one.messages.append(turn_of(parsed.content, parsed.calls, one.turns))
        one.said, one.turns = text, one.turns + 1
        if completion.finish_reason != "stop":
            # what was cut off is no turn that an environment could answer
            self._end(key, completion.finish_reason)
            return
        if parsed.errors:
            one.count(MALFORMED, len(parsed.errors))
        calls = one.messages[-1].get("tool_calls", ())
        made = tuple(Call(call["id"], call["function"]["name"], call["function"]["arguments"]) for call in calls)
        turn = Turn(text, parsed.content, made, tuple(parsed.errors))
        self._processes.call(key, "step", turn, self._timeout_s)

    def ready(self, timeout_s: float = 0.0) -> list[Request | Ended]:
        """Requests that generators must answer next, and conversations that are over.

        Args:
            timeout_s: most seconds to wait for the first one.
        """
        for key, answer in self._processes.answers(0.0 if self._ready else timeout_s):
            one = self._open[key]
            if isinstance(answer, Failed):
                self._end(key, answer.kind, Unscored(answer.kind, answer.why))
            elif isinstance(answer, Step):
                self._stepped(key, one, answer)
            else:
                self._begun(key, one, answer)
        found, self._ready = self._ready, []
        return found

    def cancel(self, key: Hashable) -> None:
        """Give up one conversation; nothing more comes of it."""
        self._ready = [each for each in self._ready if each.key != key]
        if self._open.pop(key, None) is not None:
            self._processes.end(key)

    def close(self) -> None:
        """End all processes."""
        self._open.clear()
        self._processes.close()

    def _begun(self, key: Hashable, one: _Conversation, said: list[Message]) -> None:
        """The environment is reset: the model is asked, by the prompt and what the environment says first."""
        one.messages += self._chat.harmless(said)
        one.before = len(one.messages)
        try:
            tokens, one.rendered = self._chat.prompt(one.messages)
        except DataError as cause:
            self._end(key, cause.what, Unscored("template", f"the chat template refuses the prompt: {cause}"))
            return
        one.prompt = one.prompt._replace(tokens=tokens, messages=json.dumps(one.messages, ensure_ascii=False))
        if len(tokens) >= self._max_len:
            self._end(key, "length", Unscored("no_room", f"a prompt with what the environment says has {len(tokens)} tokens"))
        else:
            self._ask(key, one)

    def _stepped(self, key: Hashable, one: _Conversation, step: Step) -> None:
        if step.reward is not None:
            one.reward = (one.reward or 0.0) + step.reward
        for name, number in step.metrics.items():
            one.count(name, number)
        if step.done or not step.messages:
            self._end(key, "stop")
        elif one.turns >= self._max_turns:
            self._end(key, "length")
        elif not one.ended_well:
            # behind that token the template never goes on: the model will not be served so
            one.count(WRONG_END)
            self._end(key, "stop")
        else:
            self._answer(key, one, self._chat.harmless(step.messages))

    def _answer(self, key: Hashable, one: _Conversation, answer: list[Message]) -> None:
        """Put what the environment says behind what was drawn, and ask on; end where that leaves no room."""
        try:
            suffix = self._chat.suffix(one.rendered, one.messages, one.said, answer)
        except DataError as cause:
            self._end(key, cause.what, Unscored("template", f"the chat template does not take an answer: {cause}"))
            return
        if len(one.tokens) + len(suffix.tokens) >= self._room(one):
            one.count(TOO_LONG)
            self._end(key, "length")
            return
        one.tokens += suffix.tokens
        one.logprobs += [0.0] * len(suffix.tokens)
        one.mask += [0] * len(suffix.tokens)
        one.messages += answer
        one.rendered = suffix.rendered
        if suffix.rewritten:
            one.count(REWRITTEN)
        self._ask(key, one)

    def _room(self, one: _Conversation) -> int:
        """Most tokens behind the prompt."""
        return min(self._max_tokens, self._max_len - len(one.prompt.tokens))

    def _ask(self, key: Hashable, one: _Conversation) -> None:
        most = min(self._max_turn_tokens, self._room(one) - len(one.tokens))
        seed = seed_of(one.seed, one.turns)
        self._ready.append(Request(key, [*one.prompt.tokens, *one.tokens], most, seed, one.turns))

    def _end(self, key: Hashable, reason: str, unscored: Unscored | None = None) -> None:
        one = self._open.pop(key)
        self._processes.end(key)
        trajectory = Trajectory(
            tokens=one.tokens,
            logprobs=one.logprobs,
            text=self._chat.plain(one.said).strip(),
            finish_reason=reason,
            versions=tuple(one.versions),
            mask=one.mask,
            messages=json.dumps(one.messages[one.before :], ensure_ascii=False),
            num_turns=one.turns,
            reward=one.reward,
            metrics=one.metrics,
        )
        self._ready.append(Ended(key, one.prompt, trajectory, unscored))


def seed_of(seed: int, turn: int) -> int:
    """The seed of one turn of a conversation: 0 <= result < 2**62; its own for the first."""
    if turn == 0:
        return seed
    return int.from_bytes(hashlib.blake2b(f"{seed}/{turn}".encode(), digest_size=8).digest(), "big") >> 2


def open_conversations(cfg: Any, model_path: str, max_len: int = sys.maxsize) -> Conversations:
    """The conversations of an rl stage with an environment.

    Args:
        cfg: its config (`raylm.rl.config.RL`).
        model_path: where the model lies that generates, its tokenizer beside it.
        max_len: most tokens of a prompt and what follows it.

    Raises:
        ConfigError: the environment cannot be made, or the model's chat template does not go with it.
    """
    from pathlib import Path

    from raylm.core.config import resolve
    from raylm.model.checkpoint import end_tokens
    from raylm.model.load import on_this_machine
    from raylm.model.tokenizer import read_tokenizer

    at = on_this_machine(model_path)
    tokenizer = read_tokenizer(at)
    card: Any = resolve(cfg.environment)
    processes = Processes(cfg.environment, cfg.environment_processes)
    chat = ChatTurns(tokenizer, end_tokens(Path(at), tokenizer), processes.tools(), cfg.tool_parser)
    chat.check(tuple(card.speaks))
    return Conversations(
        chat,
        processes,
        max_tokens=cfg.max_tokens,
        max_len=max_len,
        max_turns=cfg.max_turns,
        max_turn_tokens=cfg.max_turn_tokens,
        timeout_s=cfg.turn_timeout_s,
        rewarded=bool(card.rewarded),
    )
