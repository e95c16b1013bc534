"""Optimizers: the closed set of cards that an `optimizer` table may name; one without a `kind` is AdamW."""

from raylm.parallel.optimizers.adamw import AdamW

AnyOptimizer = AdamW
