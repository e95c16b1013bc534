"""Guards of an endpoint: the closed set of cards that a `guards` list may name."""

from typing import Annotated

from pydantic import Field

from raylm.core.config import CustomCard
from raylm.serve.guards.concurrency import Concurrency
from raylm.serve.guards.request_rate import RequestRate
from raylm.serve.guards.token_budget import TokenBudget
from raylm.serve.guards.token_rate import TokenRate

AnyGuard = Annotated[RequestRate | TokenRate | TokenBudget | Concurrency | CustomCard, Field(discriminator="kind")]
