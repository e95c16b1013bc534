"""The tree of errors; each says what went wrong, where, and what to type next."""

from __future__ import annotations


class RaylmError(Exception):
    """Base of every error that raylm raises on purpose.

    Args:
        what: one sentence on what is wrong.
        where: a place the reader can open (`jobs/x.toml:14 stages.sft.lr`, a shard, a URL).
        next: what to type or change.
    """

    def __init__(self, what: str, *, where: str | None = None, next: str | None = None) -> None:
        super().__init__(what, where, next)
        self.what, self.where, self.next = what, where, next

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        remedy = f"\n  next: {self.next}" if self.next else ""
        return f"{place}{self.what}{remedy}"

    def __reduce__(self):
        # the default would call the class with positional arguments only, and where/next would be lost in transit
        return (_rebuild, (type(self), self.what, self.where, self.next))


def _rebuild(kind: type[RaylmError], what: str, where: str | None, next: str | None) -> RaylmError:
    return kind(what, where=where, next=next)


class ConfigError(RaylmError):
    """A job file, a card or an override that cannot be read."""


class PlanError(RaylmError):
    """A chain of stages that does not fit together."""


class DriftError(RaylmError):
    """A finished stage was made from another config or other inputs."""


class ArtifactError(RaylmError):
    """A folder that is not what its manifest says, or has none."""


class StorageError(RaylmError):
    """A disk or bucket refused: full, missing, not allowed."""


class DataError(RaylmError):
    """Input rows from which nothing could be made."""


class PlacementError(RaylmError):
    """The cluster has no room for what was asked, or did not answer within the deadline."""


class GroupLost(PlacementError):
    """The ranks that held a run's state died; the group that stands now has none of it. The run goes on from its last step
    checkpoint."""


class TrainingError(RaylmError):
    """A run whose numbers no longer mean anything (NaN loss, diverged)."""


class StageError(RaylmError):
    """A stage failed; the cause is kept as `__cause__`."""
