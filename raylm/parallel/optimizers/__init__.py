"""Optimizers: the closed set of cards that an `optimizer` table may name; one without a `kind` is AdamW."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from raylm.core.config import CustomCard
from raylm.parallel.optimizers.adafactor import Adafactor
from raylm.parallel.optimizers.adamw import AdamW
from raylm.parallel.optimizers.lion import Lion
from raylm.parallel.optimizers.muon import Muon


def _adamw_by_default(table: Any) -> Any:
    return {"kind": "adamw", **table} if isinstance(table, dict) and "kind" not in table else table


AnyOptimizer = Annotated[
    Annotated[AdamW | Muon | Lion | Adafactor | CustomCard, Field(discriminator="kind")], BeforeValidator(_adamw_by_default)
]
