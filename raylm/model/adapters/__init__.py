"""Adapters: the closed set of cards that an `adapter` table may name; one without a `kind` is LoRA."""

from typing import Annotated, Any

from pydantic import BeforeValidator

from raylm.model.adapters.lora import Lora


def _lora_by_default(table: Any) -> Any:
    return {"kind": "lora", **table} if isinstance(table, dict) and "kind" not in table else table


# a union has a discriminator from its second member on: Annotated[Annotated[Lora | X, Field(discriminator="kind")], ...]
AnyAdapter = Annotated[Lora, BeforeValidator(_lora_by_default)]
