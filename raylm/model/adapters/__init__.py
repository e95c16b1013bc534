"""Adapters: the closed set of cards that an `adapter` table may name; one without a `kind` is LoRA."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from raylm.model.adapters.lora import Lora
from raylm.model.adapters.qlora import Qlora


def _lora_by_default(table: Any) -> Any:
    return {"kind": "lora", **table} if isinstance(table, dict) and "kind" not in table else table


AnyAdapter = Annotated[Annotated[Lora | Qlora, Field(discriminator="kind")], BeforeValidator(_lora_by_default)]
