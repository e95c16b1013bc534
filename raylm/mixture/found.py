"""From proxies to a chosen mixture, or to the reason why none is chosen."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from raylm.mixture.choose import choose
from raylm.mixture.draws import draw, rounded
from raylm.mixture.proxy import Result, Target
from raylm.mixture.regression import Surface, fit, left_out, rank_correlation

if TYPE_CHECKING:
    import numpy as np

Trainer = Callable[[list[list[float]], list[str]], list[Result]]
"""Trains proxies of these mixtures under these names."""


class Asked(NamedTuple):
    """What a mixture is chosen for."""

    sources: list[str]
    targets: list[Target]
    natural: np.ndarray
    """Shares as the job has them, [sources]."""
    caps: np.ndarray
    """Largest share of each source by the limit of epochs."""
    num_rows: list[int]
    rows_drawn: int
    """Of the whole run."""
    arguments: argparse.Namespace


class Found(NamedTuple):
    """What came of it."""

    proxies: list[Result]
    unseen: list[Result]
    measured: list[float]
    """Weighted loss of each proxy."""
    predicted: list[float]
    """By surfaces without that proxy."""
    unseen_measured: list[float]
    unseen_predicted: list[float]
    ranks: float
    """Rank correlation of both, over proxies that were left out."""
    unseen_ranks: float | None
    error: float
    """Root mean square of predicted minus measured, left out, in nats."""
    shares: list[float]
    """Of the chosen mixture."""
    natural_loss: float
    chosen_predicted: float
    chosen_loss: float | None
    """Measured; None where it was not trained."""
    chosen: Result | None
    refused: str
    """Why no mixture is chosen, "" where one is."""
    lines: list[str]
    """For the reader."""

    def facts(self, asked: Asked) -> dict[str, Any]:
        """For the manifest: what the mixture is, and the proxies that it comes from."""
        return {
            "sources": asked.sources,
            "shares": self.shares,
            "natural": [round(float(share), 4) for share in asked.natural],
            # what was trained for it: where it breaks a limit itself, the nearest one that does not
            "natural_trained": self.proxies[0].shares,
            "targets": {target.name: target.weight for target in asked.targets},
            "epochs": _epochs(self.shares, asked),
            # name of its file in proxies/ -> digest of all that it was made from
            "proxies": {one.name: one.order for one in (*self.proxies, *self.unseen, *([self.chosen] if self.chosen else []))},
            "refused": self.refused,
            "passed": not self.refused,
        }

    def metrics(self) -> dict[str, Any]:
        return {
            "rank_correlation": self.ranks,
            "left_out_error": self.error,
            "natural_loss": self.natural_loss,
            "predicted_loss": self.chosen_predicted,
            **({"chosen_loss": self.chosen_loss} if self.chosen_loss is not None else {}),
            **({"unseen_rank_correlation": self.unseen_ranks} if self.unseen_ranks is not None else {}),
        }


def find(asked: Asked, train: Trainer) -> Found:
    """Train, fit, choose, and train the chosen one as well: a mixture that is no better than the natural one is not chosen."""
    import numpy as np

    given = asked.arguments
    count, unseen_count = given.proxies, given.unseen
    mixtures = [rounded(row) for row in draw(asked.natural, asked.caps, count, given.seed).tolist()]
    others = [rounded(row) for row in draw(asked.natural, asked.caps, unseen_count + 1, given.seed + 7919).tolist()[1:]]
    names = [f"{at:03d}" for at in range(count)]
    proxies = train(mixtures, names)
    weights = np.array([target.weight for target in asked.targets])
    tried, losses = np.array([one.shares for one in proxies]), _losses(proxies, asked)
    measured, predicted = losses @ weights, left_out(tried, losses) @ weights
    ranks, error = rank_correlation(predicted, measured), float(np.sqrt(np.mean((predicted - measured) ** 2)))
    surfaces = [fit(tried, column) for column in losses.T]
    best = choose(surfaces, weights, tried, measured, asked.caps, given.seed)
    shares, natural_loss = rounded(best.shares.tolist()), float(measured[0])
    lines = [f"{len(proxies)} proxies of {proxies[0].parameters:,} parameters, {proxies[0].steps} steps each"]
    lines.append(f"left out, their losses are predicted within {error:.4f} nats, rank correlation {ranks:.3f}")
    if (said := _bounded(asked, proxies[0].shares)) is not None:
        lines.append(said)
    refused = ""
    if not ranks >= given.min_rank:
        refused = (
            f"left out, proxies are ranked with a correlation of {ranks:.2f}, below --min-rank {given.min_rank:g}: their losses"
            " do not say which mixture is better; train more or longer ones: --proxies, --steps"
        )
    # one that is refused already is not trained
    own = [] if refused else [(shares, f"chosen-{'-'.join(str(round(share * 10_000)) for share in shares)}")]
    last = [*own, *((row, f"unseen-{at:03d}") for at, row in enumerate(others))]
    more = train([row for row, _ in last], [name for _, name in last]) if last else []
    chosen, more = (more[0], more[1:]) if own else (None, more)
    chosen_loss = float(_losses([chosen], asked)[0] @ weights) if chosen else None
    if chosen_loss is not None:
        lines.append(
            f"chosen: {_words(asked.sources, shares)}; predicted {best.predicted:.4f} (forms differ by {best.disagreement:.4f}),"
            f" measured {chosen_loss:.4f}; natural: {_words(asked.sources, proxies[0].shares)}; measured {natural_loss:.4f}"
        )
        # NaN is no better, either
        if not chosen_loss < natural_loss:
            refused = f"trained, it loses {chosen_loss:.4f}, the natural mixture {natural_loss:.4f}: keep that"
    unseen_measured = _losses(more, asked) @ weights if more else np.array([])
    unseen_predicted = _predict(surfaces, weights, more)
    unseen_ranks = rank_correlation(unseen_predicted, unseen_measured) if len(more) > 2 else None
    if unseen_ranks is not None:
        lines.append(f"{len(more)} further mixtures, never fitted: rank correlation {unseen_ranks:.3f}")
    return Found(
        proxies,
        more,
        measured.tolist(),
        predicted.tolist(),
        unseen_measured.tolist(),
        unseen_predicted.tolist(),
        ranks,
        unseen_ranks,
        error,
        shares,
        natural_loss,
        best.predicted,
        chosen_loss,
        chosen,
        refused,
        lines,
    )


def _losses(results: list[Result], asked: Asked) -> np.ndarray:
    """[proxies, targets]."""
    import numpy as np

    return np.array([[one.losses[target.name] for target in asked.targets] for one in results])


def _predict(surfaces: list[Surface], weights: np.ndarray, results: list[Result]) -> np.ndarray:
    import numpy as np

    if not results:
        return np.array([])
    shares = np.array([one.shares for one in results])
    return weights @ np.stack([surface.predict(shares)[0] for surface in surfaces])


def _bounded(asked: Asked, trained: list[float]) -> str | None:
    """Where the natural mixture itself breaks a limit, what stands for it; None where it stands for itself."""
    if max(abs(share - given) for share, given in zip(trained, asked.natural.tolist(), strict=True)) < 1e-3:
        return None
    return (
        f"the job's own mixture ({_words(asked.sources, asked.natural.tolist())}) lies outside of the limits of --max-epochs and"
        f" of the smallest share: {_words(asked.sources, trained)} is trained in its place and is called natural here"
    )


def _epochs(shares: list[float], asked: Asked) -> list[float]:
    return [round(share * asked.rows_drawn / rows, 3) for share, rows in zip(shares, asked.num_rows, strict=True)]


def _words(sources: list[str], shares: list[float]) -> str:
    return ", ".join(f"{name} {share:.3f}" for name, share in zip(sources, shares, strict=True))
