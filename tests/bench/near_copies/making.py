"""Takes a size, leaves a corpus of English documents with planted near copies: the same bytes for the same Python and size.

Sentences of the text that every Python carries (and of RAYLM_BENCH_TEXT, a folder of .txt files) are drawn to documents of
some 290 words. A fifth of the documents belong to families: a document and one to three copies of which a part of the
sentences and some words are others, so that similarities spread from 0.3 to 1.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np

from raylm.data.sources.python_library import PythonLibrary

WORDS = 290
SHARDS = 16
_IN_FAMILIES = 0.2
# what a document of these sentences has in bytes, some
_DOCUMENT_BYTES = 1790


def sentences() -> list[str]:
    """Sentences of 5 to 60 words, in a fixed order, each once."""
    source = PythonLibrary(sources=False)
    texts = [row["text"] for unit in source.units() for row in source.read(unit) if isinstance(row, dict)]
    if folder := os.environ.get("RAYLM_BENCH_TEXT"):
        texts += [path.read_text(errors="replace") for path in sorted(Path(folder).rglob("*.txt"))]
    found = (" ".join(part.split()) for text in texts for part in re.split(r"(?<=[.!?])\s+|\n\n+", text))
    return list(dict.fromkeys(part for part in found if 5 <= len(part.split()) <= 60))


def documents(megabytes: float, seed: int = 0) -> list[tuple[str, int]]:
    """(text, family) of each document, in random order; family -1 is none. Leaves about `megabytes` of text."""
    pool = sentences()
    draw = np.random.default_rng(seed)
    total = int(megabytes * 1e6 / _DOCUMENT_BYTES)
    mean = np.mean([len(part.split()) for part in pool])

    def fresh() -> list[str]:
        count = max(2, int(draw.gamma(4.0, WORDS / mean / 4.0)))
        return [pool[at] for at in draw.integers(0, len(pool), count)]

    made: list[tuple[str, int]] = []
    family = 0
    while len(made) < total * _IN_FAMILIES:
        first = fresh()
        made.append((" ".join(first), family))
        for _ in range(draw.integers(1, 4)):
            made.append((_copy(first, pool, draw), family))
        family += 1
    while len(made) < total:
        made.append((" ".join(fresh()), -1))
    return [made[at] for at in draw.permutation(len(made))]


def _copy(first: list[str], pool: list[str], draw: np.random.Generator) -> str:
    """The document with up to half of its sentences replaced, and up to one word in 50 changed."""
    parts = list(first)
    # a share f that is replaced leaves a similarity of (1 - f) / (1 + f)
    others = draw.random(len(parts)) < draw.uniform(0, 0.5)
    for at in np.flatnonzero(others):
        parts[at] = pool[draw.integers(0, len(pool))]
    words = " ".join(parts).split(" ")
    for at in draw.integers(0, len(words), int(len(words) * draw.uniform(0, 0.02))):
        words[at] = words[draw.integers(0, len(words))]
    return " ".join(words)


def write(folder: Path, megabytes: float, seed: int = 0) -> list[tuple[str, int]]:
    """`documents` as JSON Lines (id, text, family) in shards; ids are numbers in order. Leaves the documents."""
    folder.mkdir(parents=True, exist_ok=True)
    made = documents(megabytes, seed)
    bounds = [len(made) * at // SHARDS for at in range(SHARDS + 1)]
    for at in range(SHARDS):
        lines = [
            json.dumps({"id": str(row), "text": made[row][0], "family": made[row][1]})
            for row in range(bounds[at], bounds[at + 1])
        ]
        (folder / f"{at:03d}.jsonl").write_text("\n".join(lines) + "\n")
    return made


def megabytes(usual: int = 200) -> float:
    """Size of the corpus: RAYLM_BENCH_MB, or the usual one."""
    return float(os.environ.get("RAYLM_BENCH_MB", usual))
