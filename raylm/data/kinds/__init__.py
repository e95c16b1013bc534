"""Kinds of rows: the closed set, by the kind of the artifact that holds them."""

from raylm.data.kinds.dialogues import Dialogues
from raylm.data.kinds.labelled import Labelled
from raylm.data.kinds.pairs import Pairs
from raylm.data.kinds.prompts import Prompts
from raylm.data.kinds.tokens import Tokens
from raylm.data.kinds.unpaired import Unpaired

ROW_KINDS = {kind.name: kind for kind in (Tokens(), Dialogues(), Pairs(), Unpaired(), Labelled(), Prompts())}
