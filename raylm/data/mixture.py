"""Mixtures: several sets of rows, drawn by exact shares according to a schedule."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from raylm.core.config import Config, Refers, ref_or_table
from raylm.core.errors import ConfigError
from raylm.data.kinds import ROW_KINDS

if TYPE_CHECKING:
    from raylm.data.schedule import Schedule

RowsRef = Annotated[str, Refers(tuple(ROW_KINDS))]

# shares whose smallest denominator is larger are rounded to this many parts: the schedule repeats after so many draws
UNITS = 10_000


class Part(Config):
    """One source of rows."""

    rows: RowsRef
    """An artifact of tokenize; all parts must be of one kind, length and tokenizer."""
    weight: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Share of drawn rows, in any unit: 7 and 3 are 0.7 and 0.3."""


class Phase(Config):
    """Weights that hold for a stretch of the run."""

    until: float = Field(gt=0, le=1)
    """Share of the run after which the phase ends; the last one must say 1.0."""
    weights: list[Annotated[float, Field(ge=0, allow_inf_nan=False)]]
    """One weight per part, in their order; 0 leaves a part out."""


class Mixture(Config):
    """Several sets of rows, drawn by exact shares: after any number of rows each part is within one row of its share.

    A weight is a share of rows, and so of tokens where rows are of equal length (Tokens). A part that is larger than its
    share is seen in part, a smaller one several times over, each time in another order.
    """

    kind: Literal["mixture"] = "mixture"
    parts: list[Part] = Field(min_length=1)
    """What is mixed."""
    temperature: float | None = Field(default=None, ge=0.01)
    """Without weights: a part counts rows ** (1 / temperature). 1 is as large as it is, more is nearer to equal shares."""
    phases: list[Phase] = []
    """In place of weights: weights that change in the course of the run."""
    chosen_by: Annotated[str, Refers(("Report",))] | None = None
    """The report of `raylm tune-mixture` that the weights come from: the lineage of what is trained with them. Weights that were
    changed since are refused."""

    @model_validator(mode="after")
    def _one_way(self) -> Mixture:
        weighted = sum(part.weight is not None for part in self.parts)
        if weighted not in (0, len(self.parts)):
            raise ValueError("either every part has a weight or none has")
        if (weighted > 0) + (self.temperature is not None) + bool(self.phases) > 1:
            raise ValueError("say weights, `temperature` or `phases`, and not two of them")
        ends = [phase.until for phase in self.phases]
        if ends and (ends[-1] != 1.0 or ends != sorted(set(ends))):
            raise ValueError("`until` must grow from phase to phase, and the last must be 1.0")
        for phase in self.phases:
            if len(phase.weights) != len(self.parts) or not sum(phase.weights):
                raise ValueError(f"each phase needs {len(self.parts)} weights, one per part, and not all of them 0")
        given = [part.weight for part in self.parts if part.weight is not None]
        for weights in [*([given] if given else []), *(phase.weights for phase in self.phases)]:
            try:
                self._units(weights)
            except ConfigError as cause:
                raise ValueError(f"{cause.what}: {cause.next}") from cause
        return self

    def check_chosen(self, facts: dict[str, Any], where: str) -> None:
        """Whether the report of `chosen_by` chose these weights.

        Args:
            facts: of the report.

        Raises:
            ConfigError: it chose others, or none.
        """
        shares = dict(zip(facts.get("sources", ()), facts.get("shares", ()), strict=False))
        weights = {part.rows: part.weight for part in self.parts if part.weight is not None}
        total = math.fsum(weights.values())
        same = shares.keys() == weights.keys() and len(weights) == len(self.parts)
        if same and all(abs(weight / total - shares[name]) < 1e-6 for name, weight in weights.items()):
            if not facts.get("refused"):
                return
            why = f"it chose none: {facts['refused']}"
        else:
            chose = ", ".join(f"{name} {share:g}" for name, share in shares.items()) or "no mixture"
            why = f"it chose {chose}"
        raise ConfigError(
            f"the weights of this mixture do not come from the report that `chosen_by` names: {why}",
            where=where,
            next="take the mixture of best.toml beside that report, or drop `chosen_by`",
        )

    def schedule(self, num_rows: list[int], draws: int) -> Schedule:
        """The schedule of a run that draws `draws` rows from parts of `num_rows` rows.

        Raises:
            ConfigError: a weight is too small a share to be scheduled.
        """
        from raylm.data.schedule import Schedule

        return Schedule(self._stretches(num_rows, draws))

    def expected(self, num_rows: list[int], draws: int) -> list[float]:
        """Rows of each part in a run of `draws` rows: the schedule's counts to within one row. Needs no numpy."""
        sums, begin = [0.0] * len(self.parts), 0
        for end, units in self._stretches(num_rows, draws):
            size = (draws if end is None else end) - begin
            sums = [at + size * unit / sum(units) for at, unit in zip(sums, units, strict=True)]
            begin += size
        return sums

    def average(self, num_rows: list[int]) -> Schedule:
        """A schedule of one phase, with the shares of the whole run: what held-out rows are drawn by."""
        from raylm.data.schedule import Schedule

        if not self.phases:
            return self.schedule(num_rows, 0)
        sums, begin = [Fraction(0)] * len(self.parts), Fraction(0)
        for phase in self.phases:
            share, begin = _exact(phase.until) - begin, _exact(phase.until)
            total = sum(map(_exact, phase.weights))
            sums = [at + share * _exact(weight) / total for at, weight in zip(sums, phase.weights, strict=True)]
        return Schedule([(None, self._units(sums))])

    def _stretches(self, num_rows: list[int], draws: int) -> list[tuple[int | None, tuple[int, ...]]]:
        """(first draw behind the phase, whole-number weights) of each phase; the last has no end."""
        if not self.phases:
            return [(None, self._units(self._weights(num_rows)))]
        ends = [*(round(phase.until * draws) for phase in self.phases[:-1]), None]
        return [(end, self._units(phase.weights)) for end, phase in zip(ends, self.phases, strict=True)]

    def _weights(self, num_rows: list[int]) -> list[float]:
        given = [part.weight for part in self.parts if part.weight is not None]
        if given:
            return given
        # logarithms: a small temperature would overflow; a weight of 0 would drop a part, and no word said
        logs = [math.log(rows) / (self.temperature or 1.0) for rows in num_rows]
        return [max(math.exp(log - max(logs)), 1e-300) for log in logs]

    def _units(self, weights: list[float] | list[Fraction]) -> tuple[int, ...]:
        """Weights as whole numbers in their exact ratio, or rounded to 1 / UNITS by largest remainders."""
        exact = [_exact(weight) for weight in weights]
        shares = [weight / sum(exact) for weight in exact]
        common = math.lcm(*(share.denominator for share in shares))
        if common <= UNITS:
            return tuple(int(share * common) for share in shares)
        units = [int(share * UNITS) for share in shares]
        by_rest = sorted(range(len(shares)), key=lambda at: (units[at] - shares[at] * UNITS, at))
        for at in by_rest[: UNITS - sum(units)]:
            units[at] += 1
        for part, share, unit in zip(self.parts, shares, units, strict=True):
            if share and not unit:
                raise ConfigError(
                    f"the share of {part.rows!r} is {float(share):.2g}, the smallest that can be scheduled is {1 / UNITS}",
                    next="give it more weight, or merge small parts into one stage",
                )
        return tuple(units)


def _exact(weight: float | Fraction) -> Fraction:
    """The number as it is written in the job file: 0.7 is 7/10, and not its nearest binary fraction."""
    return weight if isinstance(weight, Fraction) else Fraction(repr(float(weight)))


def refs_of(rows: str | Mixture) -> list[str]:
    """What the `rows` of a train stage name: one reference, or those of the parts."""
    return [part.rows for part in rows.parts] if isinstance(rows, Mixture) else [rows]


AnyRows = Annotated[Annotated[RowsRef, Tag("ref")] | Annotated[Mixture, Tag("table")], Discriminator(ref_or_table)]
