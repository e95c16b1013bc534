"""Losses as functions of the mixture: ridge regressions over several forms, averaged by how well they predict what they have not
seen. Every error that is told is of proxies that were left out."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np

FORMS = ("linear", "log", "both", "quadratic")
"""Shares; their logarithms (losses fall by powers of what a source gives, https://arxiv.org/abs/2403.16952); both; and both with
products of pairs."""
PENALTIES = (1e-4, 1e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0)


class Ridge(NamedTuple):
    """One form, fitted. Features are standardized, the mean of the losses is no part of the penalty."""

    form: str
    penalty: float
    centre: np.ndarray
    scale: np.ndarray
    coefficients: np.ndarray
    mean: float
    left_out: np.ndarray
    """Prediction of each proxy by a fit without it, [proxies]."""

    def predict(self, shares: np.ndarray) -> np.ndarray:
        """Losses [mixtures] of shares [mixtures, sources]."""
        return (features(shares, self.form) - self.centre) / self.scale @ self.coefficients + self.mean


class Surface(NamedTuple):
    """The loss of one target."""

    fits: list[Ridge]
    weights: np.ndarray
    """Of the fits, sum 1."""

    def predict(self, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Losses [mixtures], and how far the forms disagree about each (standard deviation)."""
        import numpy as np

        each = np.stack([fit.predict(shares) for fit in self.fits])
        mean = self.weights @ each
        return mean, np.sqrt(self.weights @ (each - mean) ** 2)


def features(shares: np.ndarray, form: str) -> np.ndarray:
    """[mixtures, features] of one form."""
    import numpy as np

    logs = np.log(np.maximum(shares, 1e-6))
    if form == "linear":
        return shares
    if form == "log":
        return logs
    both = np.concatenate([shares, logs], axis=1)
    if form == "both":
        return both
    first, second = np.triu_indices(shares.shape[1])
    return np.concatenate([both, shares[:, first] * shares[:, second]], axis=1)


def fit(shares: np.ndarray, losses: np.ndarray) -> Surface:
    """The loss [proxies] of one target as a function of shares [proxies, sources]."""
    import numpy as np

    fits = [_best(shares, losses, form) for form in FORMS]
    errors = np.array([np.mean((one.left_out - losses) ** 2) for one in fits])
    weights = (errors.min() + 1e-18) / (errors + 1e-18)
    return Surface(fits, weights / weights.sum())


def left_out(shares: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """Prediction of each proxy by surfaces whose forms and penalties were chosen without it, [proxies] for losses [proxies] or
    [proxies, targets] alike: the error of `fit` itself would be too small, it has chosen by it."""
    import numpy as np

    found = np.empty_like(losses, dtype=np.float64)
    columns = losses.reshape(len(losses), -1)
    for at in range(len(shares)):
        kept = np.arange(len(shares)) != at
        row = [fit(shares[kept], column[kept]).predict(shares[at : at + 1])[0][0] for column in columns.T]
        found[at] = row if losses.ndim > 1 else row[0]
    return found


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's, equal values at their middle rank; 0 where one of both is constant."""
    import numpy as np

    ranks = [_ranks(values) for values in (first, second)]
    if any(np.ptp(one) == 0 for one in ranks):
        return 0.0
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    import numpy as np

    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[place]


def _best(shares: np.ndarray, losses: np.ndarray, form: str) -> Ridge:
    """The penalty whose fits predict best what they were fitted without."""
    import numpy as np

    raw = features(shares, form)
    centre, scale = raw.mean(0), raw.std(0)
    scale = np.where(scale > 1e-12, scale, 1.0)
    standard, mean = (raw - centre) / scale, float(losses.mean())
    left, values, right = np.linalg.svd(standard, full_matrices=False)
    best = None
    for penalty in PENALTIES:
        shrunk = values**2 / (values**2 + penalty * len(losses))
        fitted = left @ (shrunk * (left.T @ (losses - mean)))
        # the residual without a proxy follows from the hat matrix (the mean is in it, too)
        leverage = np.minimum((left**2) @ shrunk + 1 / len(losses), 0.999)
        predicted = losses - (losses - mean - fitted) / (1 - leverage)
        error = float(np.mean((predicted - losses) ** 2))
        if best is None or error < best[0]:
            kept = values > 1e-10
            coefficients = right[kept].T @ ((shrunk[kept] / values[kept]) * (left[:, kept].T @ (losses - mean)))
            best = error, Ridge(form, penalty, centre, scale, coefficients, mean, predicted)
    assert best is not None
    return best[1]
