"""py3langid's byte automaton, compiled: a score per language from UTF-8 bytes."""

from __future__ import annotations

import numba
import numpy as np


@numba.njit(cache=True, nogil=True)
def language_scores(
    data: np.ndarray,
    ends: np.ndarray,
    row_of_state: np.ndarray,
    next_state: np.ndarray,
    feature_of_state: np.ndarray,
    weights_FL: np.ndarray,
    priors_L: np.ndarray,
) -> np.ndarray:
    """Naive Bayes log-scores, float32 [texts, languages]; a text without any feature has zeros.

    Args:
        data: bytes of all texts, uint8; `ends`: where each ends, int64.
        row_of_state, next_state: transitions, `next_state[256 * row_of_state[state] + byte]`.
        feature_of_state: feature that a state completes, -1 for none.
        weights_FL, priors_L: log-probabilities, float32; F features, L languages.
    """
    num_features, num_languages = weights_FL.shape
    scores = np.zeros((len(ends), num_languages), dtype=np.float32)
    counts = np.zeros(num_features, dtype=np.int32)
    seen = np.empty(num_features, dtype=np.int32)
    start = 0
    for text in range(len(ends)):
        state, num_seen = 0, 0
        for at in range(start, ends[text]):
            state = next_state[(np.int64(row_of_state[state]) << 8) + data[at]]
            feature = feature_of_state[state]
            if feature >= 0:
                if counts[feature] == 0:
                    seen[num_seen] = feature
                    num_seen += 1
                counts[feature] += 1
        start = ends[text]
        if num_seen:
            scores[text] = priors_L
        for index in range(num_seen):
            feature = seen[index]
            weight = np.float32(np.log1p(counts[feature]))
            for language in range(num_languages):
                scores[text, language] += weight * weights_FL[feature, language]
            counts[feature] = 0
    return scores
