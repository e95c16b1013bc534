"""What one instance of a task came to: values that make the metrics, the texts for the reader, what it cost."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from raylm.core.config import digest_of
from raylm.core.storage import Folder

TEXT_CHARS = 4000
"""Most characters of a text that is kept for the reader."""
CLUSTER = "cluster"
"""The fact that names rows which are not independent of each other: questions on one document, turns of one dialogue."""


class Graded(NamedTuple):
    """One instance of a task, of one model. A metric of the task is the sum of its values over the sum of its weights."""

    id: str
    """The same for every model and every run: a digest of what is asked (`asked_id`)."""
    values: dict[str, float]
    """Metric -> this instance's numerator: 1.0 for right, bits, a reward."""
    weights: dict[str, float]
    """Metric -> its weight: 1.0, tokens, bytes."""
    facts: dict[str, str] = {}
    """Slices: source, length, family; `cluster` for rows that are not independent."""
    asked: str = ""
    """What was asked, for the reader."""
    output: str = ""
    """What came of it."""
    tokens: int = 0
    """Tokens that were scored or drawn."""
    seconds: float = 0.0
    """From request to answer."""


def asked_id(*parts: Any) -> str:
    """16 hex digits of what is asked: texts, numbers, token ids, dictionaries of these."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=_plain)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def source_of(row: dict[str, Any]) -> dict[str, str]:
    """The slice of a row: where its text comes from."""
    return {"source": str(row["source"])} if row.get("source") else {}


def question_of(row: dict[str, Any]) -> str:
    """What a row of Prompts asks, for the reader: its last message."""
    messages = json.loads(row.get("messages") or "[]")
    return str(messages[-1].get("content", "")) if messages else ""


def means(graded: Sequence[Graded]) -> dict[str, float]:
    """Every metric: sum of values over sum of weights; NaN where nothing has weight."""
    names = dict.fromkeys(name for one in graded for name in one.values)
    found = {}
    for name in names:
        weight = math.fsum(one.weights[name] for one in graded if name in one.values)
        found[name] = math.fsum(one.values[name] for one in graded if name in one.values) / weight if weight else math.nan
    return found


def summary_of(card: Any) -> Any:
    """What makes a task's metrics of instances: `means`, or the card's own `summary(graded)` for what is no such quotient."""
    return getattr(card, "summary", None) or means


def kept(graded: Iterable[Graded]) -> list[Graded]:
    """Instances as they are written: what is asked twice is numbered, texts are bounded, numbers are plain."""
    seen = Counter[str]()
    found = []
    for one in graded:
        seen[one.id] += 1
        name = one.id if seen[one.id] == 1 else f"{one.id}#{seen[one.id]}"
        found.append(
            Graded(
                name,
                {key: float(value) for key, value in one.values.items()},
                {key: float(value) for key, value in one.weights.items()},
                {key: str(value) for key, value in one.facts.items()},
                one.asked[:TEXT_CHARS],
                one.output[:TEXT_CHARS],
                int(one.tokens),
                round(float(one.seconds), 6),
            )
        )
    return found


def file_of(model: str, task: str) -> str:
    """Name of the file with the instances of a model in a task; a model that is a path gets a digest for its slashes."""
    plain = re.sub(r"[^A-Za-z0-9_.]+", "_", model).strip("_.")[-60:]
    name = plain if plain == model else f"{plain}.{digest_of(model)[:6]}"
    return f"{name}-{task.replace('#', '_')}.jsonl"


def write(folder: Folder, name: str, graded: Sequence[Graded]) -> None:
    """Write a file of instances, one a line, in one step."""
    lines = [json.dumps(one._asdict(), ensure_ascii=False, separators=(",", ":")) for one in graded]
    # half a surrogate pair, of a model's bytes, has no UTF-8
    folder.write(name, "".join(f"{line}\n" for line in lines).encode("utf-8", "replace"))


def read(folder: Folder, name: str) -> list[Graded]:
    """The instances of a file. Raises StorageError when there is none."""
    # splitlines() would cut at characters that JSON leaves as they are
    return [Graded(**json.loads(line)) for line in folder.read(name).decode().split("\n") if line]


def _plain(value: Any) -> Any:
    """numpy's arrays and numbers."""
    return value.tolist()
