"""Forms: the closed set of cards, by `kind`, that turn documents into rows of tokens."""

from typing import Annotated

from pydantic import Field

from raylm.tokenize.forms.dialogues import Dialogues
from raylm.tokenize.forms.labelled import Labelled
from raylm.tokenize.forms.pairs import Pairs
from raylm.tokenize.forms.prompts import Prompts
from raylm.tokenize.forms.text import Text
from raylm.tokenize.forms.unpaired import Unpaired

AnyForm = Annotated[Text | Dialogues | Pairs | Unpaired | Labelled | Prompts, Field(discriminator="kind")]
