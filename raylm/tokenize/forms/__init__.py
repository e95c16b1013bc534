"""Takes a `kind`, leaves the card that makes rows of that form."""

from typing import Annotated

from pydantic import Field

from raylm.tokenize.forms.dialogues import Dialogues
from raylm.tokenize.forms.pairs import Pairs
from raylm.tokenize.forms.prompts import Prompts
from raylm.tokenize.forms.text import Text

AnyForm = Annotated[Text | Dialogues | Pairs | Prompts, Field(discriminator="kind")]
