"""Routing of an endpoint: the closed set of cards that `routing` may name."""

from typing import Annotated

from pydantic import Field

from raylm.core.config import CustomCard
from raylm.serve.routing.least_loaded import LeastLoaded
from raylm.serve.routing.prefix import Prefix
from raylm.serve.routing.session import Session

AnyRouting = Annotated[LeastLoaded | Prefix | Session | CustomCard, Field(discriminator="kind")]
"""Which of a model's replicas gets a request."""
