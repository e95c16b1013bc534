"""K-means clusters of unit vectors, and the bucket that each vector belongs to."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

_ROUNDS = 20
_BLOCK = 4096
# a bucket is a cluster and 8 bits of which side of planes a vector lies on
MOST_PLANES = 8


class Clusters(NamedTuple):
    """Centroids float32[K, D] of length 1; how many planes split each cluster, int64[K]; the planes, float32[8, D]."""

    centroids: np.ndarray
    num_planes: np.ndarray
    planes: np.ndarray


def fit(sample: np.ndarray, num_clusters: int, seed: int) -> np.ndarray:
    """float32[K, D]: spherical k-means (Lloyd, 20 rounds at most) of float16[N, D] vectors, begun at vectors of the sample.

    A cluster that runs empty begins anew at the vector that is furthest from its centroid. K is N at most.
    """
    draw, points = np.random.default_rng(seed), sample.astype(np.float32)
    num_clusters = max(1, min(num_clusters, len(points)))
    centroids = _lengthened(points[np.sort(draw.choice(len(points), num_clusters, replace=False))])
    labels = np.full(len(points), -1)
    for _ in range(_ROUNDS):
        new, near = nearest(sample, centroids)
        if (new == labels).all():
            break
        labels = new
        sums = np.zeros_like(centroids, dtype=np.float64)
        np.add.at(sums, labels, points)
        empty = np.flatnonzero(np.bincount(labels, minlength=num_clusters) == 0)
        sums[empty] = points[np.argsort(near, kind="stable")[: len(empty)]]
        centroids = _lengthened(sums.astype(np.float32))
    return centroids


def planned(sample: np.ndarray, num_rows: int, centroids: np.ndarray, most: int, seed: int) -> Clusters:
    """Clusters that are expected to hold more than `most` of `num_rows` vectors are split by planes through their middle."""
    labels, _ = nearest(sample, centroids)
    sizes = np.bincount(labels, minlength=len(centroids)) * num_rows / max(len(sample), 1)
    num_planes = np.clip(np.ceil(np.log2(np.maximum(sizes / most, 1))), 0, MOST_PLANES).astype(np.int64)
    planes = np.random.default_rng(seed + 1).standard_normal((MOST_PLANES, centroids.shape[1])).astype(np.float32)
    return Clusters(centroids, num_planes, planes)


def nearest(vectors: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(label int64[N], similarity float32[N]) of the nearest centroid, the first of equal ones."""
    labels, near = np.zeros(len(vectors), np.int64), np.zeros(len(vectors), np.float32)
    # blocks of one shape: the result of a row must not depend on how many others are in its block
    block = np.zeros((_BLOCK, vectors.shape[1]), np.float32)
    for start in range(0, len(vectors), _BLOCK):
        size = min(_BLOCK, len(vectors) - start)
        block[:size], block[size:] = vectors[start : start + size], 0
        alike = block @ centroids.T
        labels[start : start + size] = alike[:size].argmax(1)
        near[start : start + size] = alike[:size].max(1)
    return labels, near


def bucket_of(vectors: np.ndarray, clusters: Clusters) -> tuple[np.ndarray, np.ndarray]:
    """(bucket int64[N], similarity float32[N] to its centroid). Bucket = cluster * 256 + sides of the planes in use."""
    labels, near = nearest(vectors, clusters.centroids)
    sides = np.zeros(len(vectors), np.int64)
    for at in np.flatnonzero(clusters.num_planes[labels]):
        own = vectors[at].astype(np.float32) - clusters.centroids[labels[at]]
        bits = (clusters.planes[: clusters.num_planes[labels[at]]] * own).sum(1) > 0
        sides[at] = int(bits @ (1 << np.arange(len(bits))))
    return (labels << MOST_PLANES) | sides, near


def chosen(rows: np.ndarray, seed: int) -> np.ndarray:
    """uint64[N]: a draw for each row number, the same wherever the row lies (splitmix64)."""
    start = np.uint64((seed + 1) * 0x9E3779B97F4A7C15 % 2**64)
    state = rows.astype(np.int64).view(np.uint64) + start
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def _lengthened(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)
