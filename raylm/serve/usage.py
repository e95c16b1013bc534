"""What is known of a request at its end."""

from __future__ import annotations

from typing import NamedTuple

from raylm.serve.engine.spans import Mark
from raylm.serve.guards.guard import Visit


class Done(NamedTuple):
    """A request that has ended."""

    visit: Visit
    status: int
    """Of HTTP; 499 where the client left before the end."""
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    first_s: float
    """Until the first byte of the answer."""
    served: str = ""
    """Fingerprint of the weights that the answer began with; "" where nobody answered."""
    marks: tuple[Mark, ...] = ()
    """Where they changed under it."""

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens
