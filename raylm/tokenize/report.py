"""report.html of a tokenize stage: what the rows contain, and how the tokenizer splits text."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console
from rich.text import Text

from raylm.core import page
from raylm.core.artifact import REPORT
from raylm.core.storage import Folder
from raylm.data.shards import map_arrow
from raylm.tokenize.fertility import OTHERS

_SHOWN_WORDS, _SHOWN_MERGES = 40, 40
_SAMPLED_ROWS, _SHOWN_TOKENS = 3, 300
_LONGEST_BAR = 24
_LOST_SHARE, _SHOWN_REASONS = 0.1, 10
# counted under `dropped`, and no documents
_NO_DOCUMENT = ("partial_row",)
# columns of tokens, by the mask that says which of them count; what has none counts whole, a prompt not at all
_MASKS = {"tokens": "mask", "completion": "", "chosen": "", "rejected": "", "prompt": None}


def write_report(
    out: Folder,
    stage: str,
    facts: dict[str, Any],
    tokenizer: Any,
    shards: dict[str, int],
    *,
    rates: dict[str, dict[str, float]] | None = None,
    lengths: dict[str, int] | None = None,
    seconds: dict[str, float] | None = None,
) -> None:
    """Write `report.html` beside the payload in `out`. It may carry times, so it is no part of the artifact's content.

    Args:
        facts: those of the manifest.
        tokenizer: the stage's own, loaded.
        shards: row files in `out` (`train-*.arrow`) and their numbers of rows.
        rates: what `raylm.tokenize.fertility.rates` leaves.
        lengths: {k: number of documents of 2^k to 2^(k+1) - 1 tokens}.
        seconds: {step: seconds of work}.
    """
    rows, train = facts["rows"], {name: count for name, count in shards.items() if name.startswith("train-")}
    figures = [
        ("train rows", page.number(rows["train"])),
        ("held-out rows", page.number(rows["held_out"])),
        ("train tokens", page.number(facts["num_tokens"])),
        ("vocabulary", page.number(facts["vocab_size"])),
        *([("bytes per token", f"{facts['bytes_per_token']:.3f}")] if "bytes_per_token" in facts else []),
    ]
    steps = sorted((int(k), count) for k, count in (lengths or {}).items())
    other_facts = {name: value for name, value in facts.items() if name not in ("rows", "dropped")}
    lost = lost_documents(facts)
    parts = [
        *([("Rows are lost", page.note(lost))] if lost else []),
        ("", page.tiles(figures)),
        ("What documents cost", _sources(rates or {})),
        ("Length of documents in tokens, by powers of two", page.columns([(f"{1 << k:,}", count) for k, count in steps])),
        ("Dropped documents", page.bars(sorted(facts["dropped"].items(), key=lambda item: -item[1])[:30])),
        ("Rows as a model sees them", _rows(out, tokenizer, train)),
        ("Vocabulary", _vocabulary(tokenizer)),
        ("Facts", page.facts(other_facts)),
        ("Time", page.table(["step", "seconds"], [(name, round(spent, 2)) for name, spent in (seconds or {}).items()])),
    ]
    subtitle = f"tokenize · form {facts['form']}, rows of up to {facts['length']:,} tokens"
    out.write(REPORT, page.page(stage, subtitle, parts))


def lost_documents(facts: dict[str, Any]) -> str | None:
    """A warning when more than a tenth of the documents gave no row: how many, and why; else None."""
    reasons = {reason: count for reason, count in facts["dropped"].items() if reason not in _NO_DOCUMENT}
    lost, documents = sum(reasons.values()), sum(facts["documents"].values())
    if lost <= _LOST_SHARE * documents:
        return None
    ranked = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    listed = ", ".join(f"{reason} {count:,}" for reason, count in ranked[:_SHOWN_REASONS])
    more = f", and {len(ranked) - _SHOWN_REASONS} more" if len(ranked) > _SHOWN_REASONS else ""
    return f"{lost:,} of {documents:,} documents ({lost / documents:.0%}) gave no row: {listed}{more}"


def print_lost(stage: str, facts: dict[str, Any]) -> None:
    """Print the warning of `lost_documents`, if there is one, and how many rows stand behind another prompt than serving's."""
    if count := facts.get("not_behind_prompt"):
        line = f"{stage}: in {count:,} rows the answer stands behind another prompt than a model is sent in serving (fact"
        Console(stderr=True).print(Text(f"{line} not_behind_prompt): the template opens a think block, or closes it", "bold"))
    if lost := lost_documents(facts):
        line = f"{stage}: {lost}\n  next: raylm/tokenize/README.md says what a row must have; `raylm show` lists all reasons"
        Console(stderr=True).print(Text(line, "bold red"), soft_wrap=True)


def _sources(rates: dict[str, dict[str, float]]) -> str:
    """Bytes per token and fertility (tokens per word: Rust et al. 2021, https://arxiv.org/abs/2012.15613) of each source."""
    names = ("documents", "bytes", "words", "tokens", "bytes_per_token", "tokens_per_word")
    last = (OTHERS, "all")
    order = [*(source for source in rates if source not in last), *(source for source in last if source in rates)]
    lines = [[source, *(rates[source].get(name) for name in names)] for source in order]
    return page.table(["source", *(name.replace("_", " ") for name in names)], lines)


def _rows(out: Folder, tokenizer: Any, shards: dict[str, int]) -> str:
    """A few rows, spread over the shards, token by token."""
    full = sorted(name for name, count in shards.items() if count)
    chosen = [full[len(full) * at // _SAMPLED_ROWS] for at in range(_SAMPLED_ROWS)] if full else []
    parts = []
    for number, name in enumerate(chosen):
        table = map_arrow(out.local(name))
        at = table.num_rows * number // _SAMPLED_ROWS
        row = table.slice(at, 1).to_pylist()[0]
        parts.append(page.heading(f"{name}, row {at:,}"))
        for column, mask in _MASKS.items():
            if isinstance(ids := row.get(column), list):
                counts = [mask is not None] * len(ids) if not mask or mask not in row else [bool(one) for one in row[mask]]
                pieces = [(tokenizer.decode([id]), on) for id, on in zip(ids[:_SHOWN_TOKENS], counts, strict=False)]
                parts.append(
                    page.note(f"{column}: {len(ids):,} tokens, {sum(counts):,} count for the loss") + page.tokens(pieces)
                )
    return "".join(parts)


def _vocabulary(tokenizer: Any) -> str:
    """How long the tokens are, the longest ones, and merges from the first to the last."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    vocab = tokenizer.get_vocab()
    lengths = [0] * _LONGEST_BAR
    for word in vocab:
        lengths[min(len(word), _LONGEST_BAR) - 1] += 1
    steps = [(str(at + 1) if at + 1 < _LONGEST_BAR else f"{_LONGEST_BAR}+", count) for at, count in enumerate(lengths)]
    longest = sorted(vocab, key=lambda word: (-len(word), word))[:_SHOWN_WORDS]
    words = [(vocab[word], len(word), tokenizer.decode([vocab[word]])) for word in longest]
    merges = model.get("merges") or []
    chosen = sorted({len(merges) * at // _SHOWN_MERGES for at in range(_SHOWN_MERGES)}) if merges else []
    merge_rows = [(at, *(merges[at].split(" ", 1) if isinstance(merges[at], str) else merges[at])) for at in chosen]
    return (
        page.columns(steps, "length of tokens as the vocabulary spells them (of byte-level ones: in bytes)")
        + page.fold("the longest tokens", page.table(["id", "length", "token"], words))
        + page.fold("merges, from the first to the last", page.table(["rank", "left", "right"], merge_rows))
    )
