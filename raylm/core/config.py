"""Base class of configs: frozen, checked, fingerprinted."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from raylm.core.errors import ConfigError


class Config(BaseModel):
    """A table of a job file: frozen, without unknown keys, with a stable identity.

    `placement` names the fields that say where and how fast a stage runs; they are no part of what it computes,
    so changing them rebuilds nothing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    placement: ClassVar[frozenset[str]] = frozenset()
    renamed: ClassVar[dict[str, str]] = {}
    """Keys of earlier versions and what they are called now: they are refused with the new name."""
    known_as: ClassVar[dict[str, str]] = {}
    """Names that other frameworks give to what a key of raylm does, and how that is said here."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, data: Any) -> Any:
        if isinstance(data, dict):
            unknown = [key for key in data if key not in cls.model_fields]
            errors = [PydanticCustomError("unknown_key", "unknown key.{hint}", {"key": k, "hint": cls._hint(k)}) for k in unknown]
            if errors:
                raise ValidationError.from_exception_data(cls.__name__, [{"type": error, "input": data} for error in errors])
        return data

    @classmethod
    def _hint(cls, key: str) -> str:
        """What to say of an unknown key; the names of the nearest class come first."""

        def told(table: str) -> str | None:
            return next((each.__dict__[table][key] for each in cls.__mro__ if key in each.__dict__.get(table, {})), None)

        if new := told("renamed"):
            return f" It is called {new!r} now."
        here = told("known_as")
        return f" Here it is {here}." if here else did_you_mean(key, cls.model_fields)

    def identity(self) -> dict[str, Any]:
        """This config as plain JSON values, less its placement.

        Raises:
            ConfigError: a value has no stable form (NaN, an object).
        """
        fields = type(self).model_fields
        return {name: _canonical(getattr(self, name), name) for name in fields if name not in self.placement}

    def fingerprint(self) -> str:
        """16 hex digits that are equal exactly when `identity()` is equal."""
        return digest_of(self.identity())


@dataclass(frozen=True)
class Refers:
    """Marks a string field as the name of an earlier stage, or a URI, that must hold one of these artifact kinds; of a
    Checkpoint one of these variants (see `raylm.core.variants`), any where none is named."""

    kinds: tuple[str, ...]
    variants: tuple[str, ...] = ()
    by: str = ""
    """Who asks, where that is another key of the same stage: `objective dpo`."""


class Makes(NamedTuple):
    """What a stage makes: the kind of its artifact and, of a Checkpoint, its variant; "" for what is known only once it ran."""

    kind: str
    variant: str = ""

    def __str__(self) -> str:
        return f"{self.kind} ({self.variant})" if self.variant not in ("", "causal") else self.kind


ENDPOINT = Makes("Endpoint")
"""A process, in contrast to every other artifact: it is started each time, whatever its folder holds."""

DocumentsRef = Annotated[str, Refers(("Documents",))]
TokensRef = Annotated[str, Refers(("Tokens",))]
DialoguesRef = Annotated[str, Refers(("Dialogues",))]
PairsRef = Annotated[str, Refers(("Pairs",))]
PromptsRef = Annotated[str, Refers(("Prompts",))]
CheckpointRef = Annotated[str, Refers(("Checkpoint",))]
ReportRef = Annotated[str, Refers(("Report",))]


@dataclass(frozen=True)
class Reference:
    """One filled reference of a config: where it stands, what it says, what it may name."""

    path: tuple[str, ...]
    value: str
    kinds: tuple[str, ...]
    variants: tuple[str, ...] = ()
    by: str = ""

    def accepts(self, made: Makes) -> bool:
        """Whether it may name an artifact of this make, as far as its variant is known."""
        return made.kind in self.kinds and (not self.variants or made.variant in ("", *self.variants))

    @property
    def asked(self) -> str:
        """The kinds it may name: `here Tokens or Dialogues is needed`, `objective dpo needs Pairs`."""
        kinds = " or ".join(self.kinds)
        return f"{self.by} needs {kinds}" if self.by else f"{kinds} is needed"


class Role(Config):
    """One party of a stage: processes of one size that do one thing (ranks, generators, replicas, workers)."""

    count: int = 1
    """Processes, at their most."""
    least: int | None = None
    """Processes with which the stage can begin; all of them where it does not say less."""
    cpus: float = 1.0
    """CPU cores that each process reserves."""
    gpus: float = 0.0
    """GPUs that each process reserves."""
    nodes: int | None = None
    """Machines over which the processes are spread; as few as possible where it does not say."""
    colocate_with: str | None = None
    """The role in whose places these processes live: they share its cores and GPUs and ask for none of their own."""
    phase: int = 0
    """Roles of different phases are not at work at the same time."""


class WorkerSpec(Config):
    """How many processes a stage gets and what each of them holds."""

    renamed = {"notice": "preemption_notice"}

    count: int = 1
    """Number of worker processes."""
    cpus: float = 1.0
    """CPU cores that each worker reserves."""
    gpus: float = 0.0
    """GPUs that each worker reserves."""
    nodes: int | None = Field(default=None, ge=1)
    """Machines over which the workers are spread; as few as possible when it is not said."""
    device: str | None = None
    """Kind of GPU (h100, h200, b200, a100, ...): `raylm plan` tells speed and cost on it and refuses what cannot fit, and
    train tells the share of its peak that is used (mfu)."""
    least: int | None = None
    """Train and rl go on with fewer processes, down to this many, when a machine is lost: any size that the mesh allows. The
    global batch stays. Train grows again when there is room; rl does so with the next stage."""
    hang_s: float = 600.0
    """Train and rl: seconds in which no process moves, after which the one that holds the others is found and all are ended."""
    preemption_notice: str | None = None
    """Train: a file that appears, or a URL that answers, shortly before a spot machine is taken away."""

    def role(self, **changes: Any) -> Role:
        """What these processes ask a cluster for."""
        return Role(**{"count": self.count, "cpus": self.cpus, "gpus": self.gpus, "nodes": self.nodes, **changes})


class EngineUse(NamedTuple):
    """An engine that a stage starts, as far as it decides which of a machine's kernels it needs."""

    model: str
    """Reference to its checkpoint."""
    dtype: str
    """What it is to compute in; auto for the checkpoint's own format."""
    kv_cache_dtype: str
    gpu: bool


class StageConfig(Config):
    """What every stage's table has. A verb's config adds `stage` (its verb) and its own fields."""

    placement = frozenset({"workers"})
    spot: ClassVar[bool] = True
    """Its machines may be taken away at any time: it goes on where it was."""
    figures: ClassVar[tuple[str, ...]] = ()
    """Metrics (or facts) that a person reads first, in order; `loss` is `loss_before -> loss_after` where there are both."""

    workers: WorkerSpec = WorkerSpec()
    """Processes that run the stage; no part of its identity."""

    def makes(self) -> Makes:
        """The artifact that the stage will make, as far as it is known before it runs."""
        raise TypeError(f"{type(self).__name__} does not say what it makes")

    def narrowed(self) -> dict[str, Refers]:
        """What a field may name, by its name, where other keys of the stage allow less than its annotation; what is empty in
        it is as the annotation says."""
        return {}

    def own_names(self) -> set[str]:
        """What references may name that the stage's own table describes: neither a stage nor a URI."""
        return set()

    def raw(self) -> dict[str, str]:
        """What the stage reads that is no artifact, in a word each: a part of its identity, so that a change is seen."""
        return {}

    def roles(self) -> dict[str, Role]:
        """The parties of the stage by name. Plan, room check, reservations and what is held between stages read them."""
        return {"workers": self.workers.role()}

    def engines(self) -> list[EngineUse]:
        """The engines that the stage starts; `plan` says of each whether a machine like this one runs it."""
        return []


class CustomCard(Config):
    """Somebody else's card: `path` names a Config class with the same method as its siblings."""

    kind: Literal["custom"] = "custom"
    path: str
    """Import path, `package.module:Class`."""
    options: dict[str, Any] = {}
    """Keys of that class."""

    def card(self) -> Any:
        """The card itself. Raises ConfigError when the path cannot be imported or the options do not fit."""
        import importlib

        module, _, name = self.path.partition(":")
        try:
            return getattr(importlib.import_module(module), name)(**self.options)
        # somebody else's module: a mistake in it shows as any exception
        except (Exception, SystemExit) as cause:
            raise ConfigError(
                f"cannot make the custom card {self.path!r}: {type(cause).__name__}: {cause}", next="check path and options"
            ) from cause


def resolve(card: Any) -> Any:
    """The card itself: what a custom card names, and every other card as it is."""
    return card.card() if isinstance(card, CustomCard) else card


def card_kind(card: Any) -> str:
    """The name of a card for messages and facts: its kind, or its class where somebody else's has none."""
    return str(getattr(card, "kind", type(card).__name__))


def resolved(cfg: Any) -> Any:
    """`cfg` with the cards themselves in place of its custom ones."""

    def whole(value: Any) -> Any:
        return [whole(each) for each in value] if isinstance(value, list) else resolve(value)

    return cfg.model_copy(update={name: whole(getattr(cfg, name)) for name in type(cfg).model_fields})


def ref_or_table(value: Any) -> str:
    """Discriminator of fields that hold either a reference (a string) or a card (a table)."""
    return "ref" if isinstance(value, str) else "table"


def references(cfg: Config, path: tuple[str, ...] = ()) -> Iterator[Reference]:
    """Every filled reference in `cfg`, nested cards and lists included, in field order."""
    narrowed, own = (cfg.narrowed(), cfg.own_names()) if isinstance(cfg, StageConfig) else ({}, ())
    for name, field in type(cfg).model_fields.items():
        less = narrowed.get(name, Refers(()))
        for ref in _references_in(getattr(cfg, name), _mark(field.annotation, field.metadata), (*path, name)):
            if ref.value in own:
                continue
            yield replace(ref, kinds=less.kinds or ref.kinds, variants=less.variants or ref.variants, by=less.by or ref.by)


def digest_of(value: Any) -> str:
    """16 hex digits of the canonical JSON of `value`."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def did_you_mean(word: str, known: Any) -> str:
    """` Did you mean 'x'?` or the list of known words; empty when nothing is known."""
    names = sorted(str(name) for name in known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if close:
        return f" Did you mean {close[0]!r}?"
    return f" Known: {', '.join(names)}." if names else ""


def _references_in(value: Any, mark: Refers, path: tuple[str, ...]) -> Iterator[Reference]:
    if isinstance(value, str) and mark.kinds:
        yield Reference(path, value, mark.kinds, mark.variants)
    elif isinstance(value, CustomCard):
        # one that cannot be made here names nothing yet, and a plain class never does: `raylm plan` says what is wrong
        with contextlib.suppress(ConfigError):
            if isinstance(card := value.card(), Config):
                yield from references(card, path)
    elif isinstance(value, Config):
        yield from references(value, path)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _references_in(item, mark, (*path, str(index)))
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _references_in(item, mark, (*path, str(key)))


def _mark(annotation: Any, metadata: Any = ()) -> Refers:
    """What a field's annotation refers to, however deep `| None`, unions and lists bury it."""
    found = [mark for mark in metadata if isinstance(mark, Refers)]
    found += [_mark(inner, getattr(inner, "__metadata__", ())) for inner in getattr(annotation, "__args__", ())]
    kinds = dict.fromkeys(kind for mark in found for kind in mark.kinds)
    return Refers(tuple(kinds), tuple(dict.fromkeys(variant for mark in found for variant in mark.variants)))


def _canonical(value: Any, name: str) -> Any:
    if isinstance(value, Config):
        return value.identity()
    if isinstance(value, dict):
        return {str(key): _canonical(item, f"{name}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_canonical(item, name) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{name} = {value} has no stable form", next="write a finite number")
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    raise ConfigError(f"{name} holds a {type(value).__name__}, which has no stable form")
