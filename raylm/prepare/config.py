"""Takes the `prepare` table of a job, leaves what may be asked of it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from raylm.core.config import Config, CustomCard, StageConfig, WorkerSpec, resolve
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
    """The stage stops when dedup takes a larger share than this of a source with 100 documents or more: an alarm, not
    a setting of the result. Raised, the same command goes on from there."""
    workers: WorkerSpec = WorkerSpec(count=2)
    """Tasks that run at the same time; no part of the stage's identity."""

    @model_validator(mode="after")
    def _columns_are_there(self) -> Prepare:
        # documents of an earlier stage may bring columns of their own
        if any(getattr(source, "kind", "") in ("documents", "custom") for source in self.sources()):
            return self
        made: set[str] = set()
        for step in self.steps:
            card: Any = step
            if missing := [name for name in getattr(card, "reads", ()) if name not in made]:
                raise ValueError(f"{card.kind} reads {missing[0]!r}, which no step before it makes")
            if card.kind == "custom":
                return self
            made.update(card.columns() if hasattr(card, "columns") else ())
        return self

    def sources(self) -> list[Config]:
        """The source cards, in order."""
        return list(self.source) if isinstance(self.source, list) else [self.source]

    def raw(self) -> dict[str, str]:
        """The files that sources, lists and evaluation sets name on a disk; behind a URI nobody looks: a plan stays offline."""
        cards: list[Any] = [*self.sources(), *self.steps]
        cards += [one for card in self.steps for one in getattr(card, "against", ()) if isinstance(one, Config)]
        cards = [card for card in cards if not isinstance(card, CustomCard)]
        named = [name for card in cards for field in ("glob", "path") for name in _listed(getattr(card, field, None))]
        return {name: listing(name) for name in named if "://" not in name}

    def makes(self) -> str:
        """Documents."""
        return "Documents"


def steps_of(cfg: Prepare) -> list[Any]:
    """The step cards themselves."""
    return [resolve(step) for step in cfg.steps]
