"""Evaluation tasks: the closed set of cards that a `tasks` list may name."""

from typing import Annotated

from pydantic import Field

from raylm.core.config import CustomCard
from raylm.evaluate.tasks.answers import Answers
from raylm.evaluate.tasks.bits_per_byte import BitsPerByte
from raylm.evaluate.tasks.dialogue_loss import DialogueLoss
from raylm.evaluate.tasks.preference import Preference
from raylm.evaluate.tasks.reward import Reward

AnyTask = Annotated[BitsPerByte | DialogueLoss | Preference | Answers | Reward | CustomCard, Field(discriminator="kind")]
