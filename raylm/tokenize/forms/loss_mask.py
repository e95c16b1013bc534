"""Which tokens of a dialogue count for the loss: by role, by turn, with or without thoughts and the ends of turns."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from raylm.core.errors import DataError
from raylm.data.messages import Dialogue, messages
from raylm.tokenize.forms.form import Form

Role = Literal["assistant", "user", "system", "tool", "developer"]


class LossMask(Form):
    """The part of a form that says what is learned; the names are axolotl's, TRL's and LLaMA-Factory's."""

    renders_chat: ClassVar[bool] = True
    roles_to_train: tuple[Role, ...] = Field(default=("assistant",), min_length=1)
    """Whose turns are learned. A turn of the assistant is learned from behind the generation prompt, another from its words on.
    `weight` 0 or `train = false` on a turn excepts it. The default is TRL's `assistant_only_loss`."""
    train_on_eot: Literal["turn", "all", "last"] = "turn"
    """Ends of turns that are learned: of the turns that are learned, of every turn, or of the last one that is learned; in each
    row, where a dialogue gives several."""
    train_on_reasoning: bool = True
    """Whether thoughts are learned: `reasoning_content`, or a `<think>` block, with what closes them."""
    mask_history: bool = False
    """Learn no turn but the last one of those that are to be learned."""
    completion_only_loss: bool = False
    """Learn nothing of the prompt, its answers neither. A row without a completion (or output, chosen) is dropped."""

    @field_validator("roles_to_train")
    @classmethod
    def _once_each(cls, roles: tuple[Role, ...]) -> tuple[Role, ...]:
        if len(set(roles)) < len(roles):
            raise ValueError("a role is named twice")
        return roles

    def learned(self, turns: Dialogue) -> list[int]:
        """The turns that are to be learned, by number."""
        found = [at for at, turn in enumerate(turns) if turn["role"] in self.roles_to_train and turn.get("weight") != 0]
        return found[-1:] if self.mask_history else found

    def weighed(self, row: Any, turns: Dialogue) -> Dialogue:
        """The turns of a row; with `completion_only_loss` those of the prompt have `weight` 0.

        Raises:
            DataError: the row has no completion.
        """
        if not self.completion_only_loss:
            return turns
        first = len(turns) - _num_completion_turns(row)
        return [{**turn, "weight": 0} if at < first else turn for at, turn in enumerate(turns)]


def _num_completion_turns(row: Any) -> int:
    if row.get("messages") is None and row.get("conversations") is None:
        if row.get("output") is not None and row.get("instruction") is not None:
            return 1
        for column in ("completion", "chosen"):
            if row.get(column) is not None:
                said = messages(row[column], column, "assistant")
                asked = [at for at, turn in enumerate(said) if turn["role"] == "user"] if said[0]["role"] != "assistant" else []
                # a conversational answer may repeat the question that it begins with
                return len(said) - (asked[-1] + 1 if asked else 0)
    raise DataError("missing_column: completion", next="completion_only_loss wants prompt + completion; or leave it out")
