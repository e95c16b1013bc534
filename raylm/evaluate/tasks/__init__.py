"""Evaluation tasks: the closed set of cards that a `tasks` list may name."""

from typing import Annotated

from pydantic import Field

from raylm.core.config import CustomCard
from raylm.evaluate.tasks.answers import Answers
from raylm.evaluate.tasks.bits_per_byte import BitsPerByte
from raylm.evaluate.tasks.calibration import Calibration
from raylm.evaluate.tasks.contamination import Contamination
from raylm.evaluate.tasks.dialogue_loss import DialogueLoss
from raylm.evaluate.tasks.generation import Generation
from raylm.evaluate.tasks.injection import Injection
from raylm.evaluate.tasks.jailbreak import Jailbreak
from raylm.evaluate.tasks.judge import Judge
from raylm.evaluate.tasks.lm_eval import LmEval
from raylm.evaluate.tasks.long_context import LongContext
from raylm.evaluate.tasks.perplexity import Perplexity
from raylm.evaluate.tasks.preference import Preference
from raylm.evaluate.tasks.prompt_leak import PromptLeak
from raylm.evaluate.tasks.reward import Reward

AnyTask = Annotated[
    BitsPerByte
    | DialogueLoss
    | Preference
    | Answers
    | Reward
    | Generation
    | LmEval
    | Perplexity
    | Calibration
    | LongContext
    | Judge
    | Contamination
    | Injection
    | PromptLeak
    | Jailbreak
    | CustomCard,
    Field(discriminator="kind"),
]
