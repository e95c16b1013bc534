"""Samples of an rl run as HTML for report.html: prompts, their completions, scores with reasons, advantages; greedy answers over
the run."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from raylm.core import page
from raylm.core.storage import Folder
from raylm.rl.rollout_files import HELD_OUT, folder_of, iterations_in, read

ITERATIONS, PROMPTS, COMPLETIONS, ANSWERS = 6, 4, 8, 12
"""Shown at most: iterations, prompts of each, completions of each prompt, held-out prompts."""
HEADS = ("completion", "tokens", "end", "score", "rewards", "advantage", "behind")


def sample_table(artifact: Folder) -> str:
    """Some iterations from first to last, each to open; "" where nothing was kept."""
    folder = folder_of(artifact)
    shown = [_iteration(at, read(folder, at)) for at in _spread(iterations_in(folder), ITERATIONS)]
    if not shown:
        return ""
    told = "Of each iteration the prompts whose completions score lowest, highest and furthest apart. All of them: raylm show"
    return page.note(f"{told} {artifact.uri} --rollouts N") + "".join(shown)


def held_out_table(artifact: Folder) -> str:
    """Greedy answers to the same held-out prompts, over the run."""
    folder = folder_of(artifact)
    answers: dict[int, list[tuple[int, dict[str, Any]]]] = defaultdict(list)
    for at in _spread(iterations_in(folder, HELD_OUT), ITERATIONS):
        for row in read(folder, at, HELD_OUT):
            answers[row["row"]].append((at, row))
    parts = []
    for rows in list(answers.values())[:ANSWERS]:
        scores = [row["score"] for _, row in rows]
        title = f"{_words(rows[0][1])}: {page.number(scores[0])} → {page.number(scores[-1])}"
        cells = [[at, row["completion"], len(row["tokens"]), _score(row), _rewards(row)] for at, row in rows]
        parts.append(page.fold(title, page.table(("before iteration", "answer", "tokens", "score", "rewards"), cells)))
    return "".join(parts)


def groups_of(rows: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Rows by prompt, in their order."""
    groups: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["row"]].append(row)
    return list(groups.values())


def _iteration(number: int, rows: list[dict[str, Any]]) -> str:
    scores = [row["score"] for row in rows if row["score"] is not None]
    mean = f"mean score {sum(scores) / len(scores):.4g}" if scores else "nothing scored"
    inner = "".join(_prompt(group) for group in _telling(groups_of(rows)))
    return page.fold(f"iteration {number}: {len(rows)} completions, {mean}", inner)


def _prompt(group: list[dict[str, Any]]) -> str:
    first = group[0]
    truth = f"right answer: {first['ground_truth']}" if first["ground_truth"] is not None else ""
    cells = [
        [
            row["completion"], len(row["tokens"]), row["finish_reason"], _score(row), _rewards(row),
            "not learned from" if row["advantage"] is None else round(row["advantage"], 4), row["staleness"],
        ]
        for row in group[:COMPLETIONS]
    ]  # fmt: skip
    source = f", {first['source']}" if first["source"] else ""
    told = page.note(truth) if truth else ""
    return page.heading(f"prompt {first['row']}{source}") + page.text(_words(first)) + told + page.table(HEADS, cells)


def _telling(groups: list[list[dict[str, Any]]]) -> list[list[dict[str, Any]]]:
    """Groups with the lowest and the highest mean and the widest spread, then others; in their order."""

    def key(at: int) -> tuple[float, float]:
        scores = [row["score"] for row in groups[at] if row["score"] is not None] or [0.0]
        return sum(scores) / len(scores), max(scores) - min(scores)

    places = range(len(groups))
    first = [min(places, key=key), max(places, key=key), max(places, key=lambda at: key(at)[1])] if groups else []
    return [groups[at] for at in sorted(list(dict.fromkeys([*first, *places]))[:PROMPTS])]


def _spread(found: list[int], most: int) -> list[int]:
    """First, last and some between."""
    if len(found) <= most:
        return found
    return [found[round(at * (len(found) - 1) / (most - 1))] for at in range(most)]


def _score(row: dict[str, Any]) -> Any:
    return row["unscored"] if row["score"] is None else round(row["score"], 4)


def _rewards(row: dict[str, Any]) -> str:
    return "; ".join(f"{one['name']} {one['value']:.4g}{': ' if one['reason'] else ''}{one['reason']}" for one in row["rewards"])


def _words(row: dict[str, Any]) -> str:
    """The prompt as a person reads it: of messages the last one that was asked."""
    import json

    try:
        messages = json.loads(row["prompt"])
    except (json.JSONDecodeError, TypeError):
        return str(row["prompt"])
    said = [one.get("content") for one in messages if isinstance(one, dict)] if isinstance(messages, list) else []
    return str(said[-1]) if said and said[-1] else str(row["prompt"])
