"""Rows of tokenize stages as text: what is trained on, what is only read, where documents begin."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from raylm.core.artifact import Artifact, open_artifact

if TYPE_CHECKING:
    from raylm.job import Job, Step

# tokens of a row that are printed: more fill the screen and show nothing new
_SHOWN = 600
_LEARNED, _READ, _NOTE = "bold green", "dim", "cyan"

Decode = Callable[[list[int]], str]


def show(job: Job, steps: list[Step], count: int, console: Console | None = None) -> None:
    """Print `count` rows of every finished tokenize stage, the first ones that a training with seed 0 would see."""
    console = console or Console()
    tokenized = [step for step in steps if step.config.stage == "tokenize"]
    if not tokenized:
        console.print("There are no samples: this job has no tokenize stage.")
        return
    legend = Text("\nsamples: ")
    legend.append_text(_marked("learned", True, console)).append(", ").append_text(_marked("read, not learned", False, console))
    console.print(legend)
    for step in tokenized:
        if step.state != "ready":
            console.print(
                f"{step.name}: no samples yet, run the stage first: raylm run JOB --only {step.name}",
                highlight=False,
                markup=False,
            )
            continue
        artifact = open_artifact(job.folder(step.name))
        decode = _decoder(artifact)
        for line in _about(artifact):
            console.print(Text(f"{step.name}: {line}", _NOTE), soft_wrap=True)
        for number, place, row in _rows(artifact, count):
            console.print(Text(f"\n{step.name}, row {number}{place}", _NOTE))
            console.print(_said(artifact, number, row, decode, console), soft_wrap=True)


def _about(artifact: Artifact) -> Iterator[str]:
    """What made the rows, and what became of those that were dropped, too long, or not rendered whole."""
    facts = artifact.facts
    if sha256 := facts.get("chat_template_sha256"):
        yield f"chat template {sha256}"
    named = ("dropped", "overlong", "rows_per_dialogue", "left_out", "not_behind_prompt")
    for name in named:
        if counts := facts.get(name):
            said = counts if isinstance(counts, int) else ", ".join(f"{what} {count:,}" for what, count in counts.items())
            yield f"{name.replace('_', ' ')}: {said}"


def _cut(artifact: Artifact, number: int) -> str:
    """What part of its document a row is, where it is not all of it; "" for a row of several documents."""
    from raylm.data.lineage import documents_of, rows_of

    found = documents_of(artifact.uri, "train", number)
    if len(found) != 1 or found[0]["length"] == found[0]["num_tokens"]:
        return ""
    rows = [row["row"] for row in rows_of(artifact.uri, "train", found[0]["id"])]
    part = f"row {rows.index(number) + 1} of its {len(rows)}, " if len(rows) > 1 else "truncated, "
    return f", {part}{found[0]['length']} of {found[0]['num_tokens']} tokens"


def _rows(artifact: Artifact, count: int) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """(row number, where its document comes from, row) of the first rows in the order of seed 0."""
    from raylm.data.order import batch_indices
    from raylm.data.shards import Rows

    rows = Rows.open(artifact.uri, "train")
    for number in batch_indices(len(rows), min(count, len(rows)), 0, 0):
        row = rows[number]
        yield number, f", {row['source']} ({row['id']}){_cut(artifact, number)}" if "id" in row else "", row


def _said(artifact: Artifact, number: int, row: dict[str, Any], decode: Decode, console: Console) -> Text:
    """The row as text, by what its columns say."""
    text = Text()
    if "starts" in row:
        return _packed(artifact, number, row, decode, console)
    if "mask" in row:
        return _spans(text, row["tokens"], row["mask"], decode, console)
    _spans(text, row.get("prompt", row.get("tokens")), None, decode, console, learned=False)
    for name in ("chosen", "rejected", "completion"):
        if name in row:
            label = f" (label {str(row['label']).lower()})" if "label" in row else ""
            text.append(f"\n{name}{label}: ", _NOTE)
            _spans(text, row[name], None, decode, console)
    if "label" in row and "completion" not in row:
        classes, label = artifact.facts.get("classes"), row["label"]
        text.append("\nlabel: ", _NOTE).append(classes[int(label)] if classes else f"{label:g}")
    if "margin" in row:
        text.append("\nmargin: ", _NOTE).append(f"{row['margin']:g}")
    if row.get("ground_truth") is not None:
        text.append("\nground truth: ", _NOTE).append(row["ground_truth"])
    return text


def _packed(artifact: Artifact, number: int, row: dict[str, Any], decode: Decode, console: Console) -> Text:
    """A packed row, with a line before each document that says what it is."""
    from raylm.data.lineage import documents_of

    text, shown = Text(), 0
    for document in documents_of(artifact.uri, "train", number):
        if shown >= _SHOWN:
            text.append(f"\n... and more documents up to token {len(row['tokens'])}", _NOTE)
            break
        at, size = document["position"], document["length"]
        part = "" if size == document["num_tokens"] else f" of {document['num_tokens']}"
        place = f"{document['source']}:{document['start']}-{document['end']}"
        text.append(f"{chr(10) if shown else ''}--- at token {at}, {size}{part} tokens of {place}\n", _NOTE)
        mask = row["mask"][at : at + size] if "mask" in row else None
        _spans(text, row["tokens"][at : at + size], mask, decode, console, limit=_SHOWN - shown)
        shown += size
    return text


def _spans(
    text: Text, tokens: Any, mask: Any, decode: Decode, console: Console, learned: bool = True, limit: int = _SHOWN
) -> Text:
    """Append `tokens`, decoded stretch by stretch of equal mask; without a mask all are `learned` or none is."""
    ids = [int(token) for token in tokens]
    marks = [learned] * len(ids) if mask is None else [bool(mark) for mark in mask]
    begin, end = 0, min(len(ids), limit)
    for at in range(1, end + 1):
        if at == end or marks[at] != marks[begin]:
            text.append_text(_marked(decode(ids[begin:at]), marks[begin], console))
            begin = at
    if end < len(ids):
        text.append(f" ... {len(ids) - end} more tokens", _NOTE)
    return text


def _marked(words: str, learned: bool, console: Console) -> Text:
    """Coloured on a terminal; elsewhere what is learned stands in double brackets."""
    if console.is_terminal:
        return Text(words, _LEARNED if learned else _READ)
    return Text(f"[[{words}]]" if learned else words)


def _decoder(artifact: Artifact) -> Decode:
    """From the tokenizer's own file: transformers would take seconds to import."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(artifact.folder.local("tokenizer/tokenizer.json")))
    return lambda ids: tokenizer.decode(ids, skip_special_tokens=False)
