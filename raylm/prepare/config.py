"""Config of the `prepare` stage."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from raylm.core.config import Config, CustomCard, Makes, StageConfig, WorkerSpec, resolve
from raylm.data.records import COLUMNS
from raylm.data.sources import AnySource
from raylm.data.sources.units import listing
from raylm.prepare.dedup import AnyDedup
from raylm.prepare.select import AnySelect
from raylm.prepare.steps import AnyStep


def _one_or_list(value: Any) -> str:
    return "list" if isinstance(value, list) else "table"


AnySources = Annotated[Annotated[AnySource, Tag("table")] | Annotated[list[AnySource], Tag("list")], Discriminator(_one_or_list)]


def _listed(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else value if isinstance(value, list) else []


class Prepare(StageConfig):
    """Raw rows to cleaned Documents."""

    placement = StageConfig.placement | {"max_source_loss"}
    figures = ("rows", "bytes", "dropped")

    stage: Literal["prepare"] = "prepare"
    source: AnySources
    """Where raw rows come from. Of several sources the earlier ones come first: of two duplicates theirs stays."""
    steps: list[AnyStep] = Field(default_factory=list)
    """What is done with each document, in this order: cleaners change text, scores add columns, filters drop rows."""
    dedup: list[AnyDedup] = Field(default_factory=list)
    """What is compared over all documents, in this order; without it nothing is."""
    select: list[AnySelect] = Field(default_factory=list)
    """What is chosen of the documents that are left, in this order."""
    keep_rejected: bool = False
    """Write dropped documents to `rejected-*.jsonl` with the reason and, of duplicates, the document that stayed."""
    max_source_loss: float = Field(default=0.5, ge=0, le=1)
    """The stage stops when dedup takes a larger share than this of a source with 100 documents or more, decontamination one
    of a source with 20, or when so many of 10 rows or more could not be read: an alarm, not a setting of the result. Raised,
    the same command goes on from there."""
    workers: WorkerSpec = WorkerSpec(count=2)
    """Tasks that run at the same time; no part of the stage's identity."""

    @model_validator(mode="after")
    def _has_a_source(self) -> Prepare:
        if not self.sources():
            raise ValueError("source is an empty list")
        return self

    @model_validator(mode="after")
    def _columns_are_there(self) -> Prepare:
        sweeps: list[Any] = [*self.dedup, *self.select]
        # documents of an earlier stage, and cards of others, may bring columns of their own
        kinds = [getattr(card, "kind", "") for card in (*self.sources(), *self.steps, *sweeps)]
        known = "custom" not in kinds and "documents" not in kinds
        columns: dict[str, Any] = dict.fromkeys(COLUMNS)
        reads: list[tuple[Any, tuple[Any, ...]]] = [(card, getattr(card, "reads", ())) for card in self.steps]
        reads += [(card, (getattr(card, "column", None), getattr(card, "per", None))) for card in sweeps]
        for card, names in reads:
            if known and (missing := [name for name in names if name and name not in columns and "." not in name]):
                raise ValueError(f"{card.kind} reads {missing[0]!r}, which no step before it makes")
            for name in card.columns() if hasattr(card, "columns") else ():
                if columns.get(name, card) != card:
                    raise ValueError(f"{card.kind} would write over the column {name!r}: give its column another name")
                columns[name] = card
        return self

    def sources(self) -> list[Config]:
        """The source cards, in order."""
        return list(self.source) if isinstance(self.source, list) else [self.source]

    def raw(self) -> dict[str, str]:
        """The files that sources, lists, fastText models and evaluation sets name on a disk. Behind a URI nobody looks: a
        plan stays offline."""
        cards: list[Any] = [*self.sources(), *self.steps]
        cards += [one for card in self.steps for one in getattr(card, "against", ()) if isinstance(one, Config)]
        cards = [card for card in cards if not isinstance(card, CustomCard)]
        named = [name for card in cards for field in ("glob", "path") for name in _listed(getattr(card, field, None))]
        named += [getattr(card, name) for card in cards for name in getattr(card, "reads_files", ())]
        return {name: listing(name) for name in named if "://" not in name}

    def makes(self) -> Makes:
        return Makes("Documents")


def steps_of(cfg: Prepare) -> list[Any]:
    """The step cards themselves."""
    return [resolve(step) for step in cfg.steps]
