"""The `reward_model` reward: what a trained reward model says of a completion."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from raylm.core.config import Refers, Role
from raylm.core.errors import ConfigError, DataError
from raylm.rl.rewards.reward import Reward
from raylm.rl.rewards.role_worker import Where
from raylm.rl.types import Prompt, Score, Trajectory, Unscored

if TYPE_CHECKING:
    import numpy as np


class ValueModel(Reward):
    """What rewards have that are read from a value head: its checkpoint and its place in the cluster."""

    placement = frozenset({"count", "cpus", "gpus", "batch_tokens", "timeout_s", "start_s"})

    model: Annotated[str, Refers(("Checkpoint",), ("reward",))]
    """The reward model, as a train stage with `objective = {kind = "reward"}` makes it."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """What it computes in; auto: as it is stored."""
    count: int = Field(default=1, ge=1)
    """Processes, each with the whole model."""
    cpus: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """CPU cores that each reserves."""
    gpus: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """GPUs that each reserves."""
    batch_tokens: int = Field(default=16_384, gt=0)
    """Tokens of one forward pass, padding included."""
    timeout_s: float = Field(default=300.0, gt=0, allow_inf_nan=False)
    """Seconds for the completions of one prompt, after which the process is made again."""
    start_s: float = Field(default=1800.0, gt=0, allow_inf_nan=False)
    """Seconds in which the model must be loaded."""

    def role(self) -> Role | None:
        """What its processes ask a cluster for."""
        return Role(count=self.count, cpus=self.cpus, gpus=self.gpus)


class RewardModel(ValueModel):
    """The value at the last token of prompt and completion (objective `reward`), shifted and scaled. Tokens are those that were
    drawn where the reward model has the policy's tokenizer and chat template; else the messages and the completion's text are
    rendered by its own."""

    kind: Literal["reward_model"] = "reward_model"
    center: float = Field(default=0.0, allow_inf_nan=False)
    """Subtracted from what the model says."""
    clip: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Largest distance from `center` that counts."""

    def scorer(self, where: Where) -> Scorer:
        """The loaded model. Raises RaylmError where it is no reward model."""
        return Scorer(self, where)


class Scorer:
    """A reward model in its process."""

    def __init__(self, card: RewardModel, where: Where) -> None:
        from raylm.model.token_values import TokenValues

        self._card = card
        self._reader = Reader(where)
        self._values = TokenValues(where.model, card.dtype, card.batch_tokens)

    def score(self, prompt: Prompt, drawn: Sequence[Trajectory]) -> list[Score | Unscored]:
        """One score for each trajectory."""
        values = self._values([self._reader.tokens(prompt, one) for one in drawn])
        return [self._score(value) for value in values]

    def _score(self, value_T: np.ndarray) -> Score:
        value = float(value_T[-1]) - self._card.center
        most = self._card.clip
        return Score(value if most is None else max(min(value, most), -most), "")


class Reader:
    """Prompts and completions as the tokens that another model reads."""

    def __init__(self, where: Where) -> None:
        from raylm.model.load import load_tokenizer
        from raylm.model.same_tokens import other_tokens

        self._tokenizer: Any = load_tokenizer(where.model)
        theirs = load_tokenizer(where.tokenizer)
        every = {"tokens": list(range(len(theirs)))}
        self.why = other_tokens([every], theirs, self._tokenizer)
        """Why drawn tokens are not read as they are; "" where they are."""
        if not self.why and theirs.chat_template != self._tokenizer.chat_template:
            self.why = "its chat template is another one"
        if self.why and not self._tokenizer.chat_template:
            raise ConfigError(
                f"the model cannot read what was drawn ({self.why}), and has no chat template to render it by", where=where.model
            )

    def tokens(self, prompt: Prompt, drawn: Trajectory) -> list[int]:
        """Tokens of prompt and completion. Raises DataError where the template does not take them."""
        if not self.why:
            return [*prompt.tokens, *drawn.tokens]
        import jinja2

        turns = json.loads(drawn.messages) if drawn.messages else [{"role": "assistant", "content": drawn.text}]
        try:
            tokens = self._tokenizer.apply_chat_template([*json.loads(prompt.messages), *turns], tokenize=True, return_dict=False)
        except (jinja2.TemplateError, TypeError, ValueError) as cause:
            raise DataError(f"the reward model's chat template refuses this dialogue: {cause}") from cause
        return self._to_the_end(list(tokens), drawn.finished)

    def _to_the_end(self, tokens: list[int], finished: bool) -> list[int]:
        """What templates write behind the last turn's end was never in front of the value that was trained; a completion that
        was cut has no end."""
        last = next((at for at in reversed(range(len(tokens))) if tokens[at] == self._tokenizer.eos_token_id), None)
        if last is None or self._tokenizer.decode(tokens[last + 1 :]).strip():
            return tokens
        return tokens[: last + finished]
