"""The `prepare` stage: raw rows to Documents. Rows are read and cleaned unit by unit, then compared and selected over all of
them.

sources --> units --> [read, steps] --> shards --> [sweep of dedup, select]* --> decisions
                                          '----------------------------------------+--> [write] --> manifest, report

Every [ ] is a marked pass: after a crash the same command does what is missing and leaves the same bytes. Without a
sweep the shards that were read are the artifact.
"""

from __future__ import annotations

import time
from collections import Counter
from functools import partial
from typing import Any

from raylm.core.artifact import Documents
from raylm.core.config import card_kind, did_you_mean, resolve
from raylm.core.context import Context
from raylm.core.errors import DataError
from raylm.core.storage import Folder
from raylm.data.mapping import MISSING, Columns
from raylm.data.marks import Plain, run_marked
from raylm.prepare.config import Prepare, steps_of
from raylm.prepare.corpus import DECISIONS, Corpus, Shard, View, apply, content_of
from raylm.prepare.read import EXAMPLES, Losses, read_unit, write_shard
from raylm.prepare.report import print_unread, write_report

# rows of a source from which on the share that is lost says something: to dedup, to decontamination, to reading
_ALARM_ROWS, _ALARM_CONTAMINATED, _ALARM_UNREAD = 100, 20, 10
_SHOWN_SOURCES = 20


def run(cfg: Prepare, ctx: Context) -> Documents:
    """Make the Documents.

    Facts: rows, bytes (of text), columns (those that every shard has, scores too), sources (how many), dropped {reason:
    count}, dropped_examples {reason: places}, cleaned {cleaner: {what: count}}, steps and sweeps {place-card: what it says
    of itself}.

    Raises:
        DataError: no file matches, no row is left, or dedup takes more of a source than `max_source_loss`.
    """
    # a card that names an artifact or a file beside the job learns here where a worker finds it
    cfg = cfg.model_copy(update={"steps": [card.placed(ctx.open) if hasattr(card, "placed") else card for card in steps_of(cfg)]})
    units = _units(cfg, ctx)
    sweeps = [resolve(card) for card in (*cfg.dedup, *cfg.select)]
    # what a sweep still judges is not final yet
    target = ctx.work / "read" if sweeps else ctx.out
    read = run_marked(ctx, "read", units, partial(read_unit, cfg, target), cfg.workers)
    total = totals(read)
    _check_mapping(cfg, units, read)
    if not total["rows"]:
        raise _nothing_left(total)
    _alarm_of_reading(cfg, total)
    if sweeps:
        view, swept, seconds, decided_by = _sweep(cfg, ctx, target, sweeps, read)
        written = run_marked(
            ctx, "write", write_units(view, read, decided_by), partial(_write, cfg, view, ctx.out), cfg.workers, "shards"
        )
        total = _after_sweeps(total, totals(written), swept)
        total["seconds"] |= seconds
        _alarm(cfg, total)
    if not total["rows"]:
        raise _nothing_left(total)
    total["steps"] = {f"{at}-{card.kind}": card.facts() for at, card in enumerate(steps_of(cfg)) if hasattr(card, "facts")}
    _settle(ctx.out, target, [name for mark in read for name in mark["rejected"]] if sweeps else [], total)
    ctx.out.write_json("sources.json", total["by_source"])
    write_report(ctx.out, ctx.stage, total)
    print_unread(ctx.stage, total)
    metrics = {key: total[key] for key in ("rows_in", "rows", "bytes")} | {"dropped": sum(total["dropped"].values())}
    metrics |= _unseen(total)
    return ctx.commit(Documents, facts=_facts(total), metrics=metrics | {"seconds": total["seconds"]}, rows=total["shards"])


def _units(cfg: Prepare, ctx: Context) -> list[Plain]:
    """Work units of all sources, in order; each names its source by number."""
    units: list[Plain] = []
    for at, source in enumerate(cfg.sources()):
        card: Any = resolve(source)
        # a source of what earlier stages made is handed their artifacts
        refs = getattr(card, "documents", None)
        refs = [refs] if isinstance(refs, str) else refs
        found = card.units_of([ctx.open_as(ref, Documents) for ref in refs]) if refs else card.units()
        units += [{**unit.plain(), "source": at} for unit in found]
    return units


def _sweep(
    cfg: Prepare, ctx: Context, read: Folder, sweeps: list[Any], marks: list[Plain]
) -> tuple[View, dict[str, Any], dict[str, float], list[str]]:
    """Every sweep in turn; leaves the view with all decisions, each card's facts, its seconds, and by what it decided."""
    shards: list[Shard] = []
    for mark in marks:
        for shard in mark["shards"]:
            first = shards[-1].first + shards[-1].rows if shards else 0
            shards.append(Shard(read, shard["name"], shard["rows"], first))
    view, facts, seconds, decided_by = View(tuple(shards)), {}, {}, []
    for at, card in enumerate(sweeps):
        scratch = ctx.work / f"{at}-{card.kind}"
        since = time.perf_counter()
        corpus = Corpus(ctx, cfg.workers, view, scratch, content_of(marks))
        swept = card.sweep(corpus)
        corpus.settle(DECISIONS, swept.parts, view.own)
        view = View(view.shards, (*view.decided, (scratch, swept.parts)))
        facts[scratch.name] = swept.facts
        decided_by.append(corpus.decided_by)
        seconds[scratch.name] = round(time.perf_counter() - since, 2)
    return view, facts, seconds, decided_by


def write_units(view: View, marks: list[Plain], decided_by: list[str]) -> list[Plain]:
    """Shards that are written as the sweeps leave them: a mark of other rows, or of decisions by other hashes, is not taken."""
    decided = {"decided_by": decided_by} if any(decided_by) else {}
    return [{"shard": shard.name, "content": content_of(marks), **decided} for shard in view.shards]


def _write(cfg: Prepare, view: View, out: Folder, at: int, plain: Plain) -> Plain:
    """One shard as all sweeps leave it; runs in a worker."""
    import pyarrow as pa

    shard = view.shards[at]
    losses = Losses(out if cfg.keep_rejected else None, f"rejected-{shard.name.removesuffix('.parquet')}")
    table = kept = View((shard,)).table(0)
    for decisions in view.decisions(at):
        gone = decisions.filter(decisions["cuts"].is_null())
        lost = table.take(pa.array(gone["row"].to_numpy() - shard.first))
        why = gone.select(["because", "score"]).to_pylist()
        losses.add_explained(lost, gone["reason"].to_pylist(), [{k: v for k, v in one.items() if v is not None} for one in why])
        kept = apply(kept, decisions)
    kept = kept.drop_columns(["row"])
    shards = [write_shard(out, shard.name, kept)] if kept.num_rows else []
    losses.close()
    return {"rows_in": table.num_rows, "shards": shards, "cleaned": {}, "seconds": {}, **losses.plain()}


def totals(marks: list[Plain]) -> dict[str, Any]:
    """Sums over all marks; of examples the first few, in order."""
    dropped, seconds, lengths = Counter[str](), Counter[str](), Counter[str]()
    cleaned: dict[str, Counter[str]] = {}
    by_source: dict[str, Counter[str]] = {}
    unread = Counter[str]()
    examples: dict[str, list[Plain]] = {}
    shards, size = {}, 0
    shared: list[str] | None = None
    for mark in marks:
        seconds.update(mark["seconds"])
        unread.update(mark["unread"])
        for kind, counts in mark["cleaned"].items():
            cleaned.setdefault(kind, Counter()).update(counts)
        for source, counts in mark["dropped"].items():
            by_source.setdefault(source, Counter()).update(counts)
            dropped.update(counts)
        for reason, places in mark["examples"].items():
            examples[reason] = (examples.get(reason, []) + places)[:EXAMPLES]
        for shard in mark["shards"]:
            shards[shard["name"]] = shard["rows"]
            size += shard["bytes"]
            lengths.update(shard["lengths"])
            shared = shard["columns"] if shared is None else [name for name in shared if name in shard["columns"]]
            for source, count in shard["sources"].items():
                by_source.setdefault(source, Counter())["kept"] += count
    return {
        "rows": sum(shards.values()),
        "rows_in": sum(mark["rows_in"] for mark in marks),
        "bytes": size,
        "shards": shards,
        "dropped": dict(sorted(dropped.items())),
        "unread": dict(sorted(unread.items())),
        "by_source": {source: dict(sorted(counts.items())) for source, counts in sorted(by_source.items())},
        "examples": dict(sorted(examples.items())),
        "cleaned": {kind: dict(sorted(counts.items())) for kind, counts in cleaned.items()},
        "seconds": {name: round(spent, 2) for name, spent in seconds.items()},
        "lengths": {k: lengths[k] for k in sorted(lengths, key=int)},
        "shard_columns": shared or [],
        "columns": sorted({name for mark in marks for name in mark["columns"]}),
        "rejected": [name for mark in marks for name in mark["rejected"]],
        "sweeps": {},
    }


def _after_sweeps(read: dict[str, Any], written: dict[str, Any], sweeps: dict[str, Any]) -> dict[str, Any]:
    """The totals of the whole stage: what was read, less what the sweeps took."""
    by_source = {source: Counter(counts) for source, counts in written["by_source"].items()}
    for source, counts in read["by_source"].items():
        by_source.setdefault(source, Counter()).update({reason: n for reason, n in counts.items() if reason != "kept"})
    kept = {key: written[key] for key in ("rows", "bytes", "shards", "shard_columns", "lengths")}
    return (
        read
        | kept
        | {
            "dropped": dict(sorted((Counter(read["dropped"]) + Counter(written["dropped"])).items())),
            "swept": written["by_source"],
            "by_source": {source: dict(sorted(counts.items())) for source, counts in sorted(by_source.items())},
            "examples": read["examples"] | written["examples"],
            "rejected": read["rejected"] + written["rejected"],
            "sweeps": sweeps,
        }
    )


def _check_mapping(cfg: Prepare, units: list[Plain], marks: list[Plain]) -> None:
    """Stop where a mapped column is in no row of its source: a word that is misspelt must not cost a whole source quietly."""
    for at, card in enumerate(map(resolve, cfg.sources())):
        if not isinstance(getattr(card, "columns", None), Columns):
            continue
        ours = [mark for mark, unit in zip(marks, units, strict=True) if unit["source"] == at]
        reasons = Counter[str]()
        for mark in ours:
            for counts in mark["dropped"].values():
                reasons.update(counts)
        missing = {reason: n for reason, n in reasons.items() if reason.startswith(MISSING)}
        if not missing or any(mark["shards"] for mark in ours):
            continue
        name = max(missing, key=lambda reason: missing[reason])
        names = sorted({column for mark in ours for column in mark["columns"]})
        word = name.removeprefix(MISSING)
        raise DataError(
            f"{missing[name]:,} of {sum(mark['rows_in'] for mark in ours):,} rows have no column {word!r}, and none is left."
            f"{did_you_mean(word, names)} The rows have: {', '.join(names)}",
            where=f"source {at} ({card_kind(card)})",
            next="mend `columns` of the source",
        )


def _unseen(total: dict[str, Any]) -> dict[str, int]:
    """How many documents a card had nothing to look at of, a URL say: what it left is not what it let through."""
    counted = [*total["cleaned"].items(), *((name.partition("-")[2], facts) for name, facts in total["sweeps"].items())]
    return {f"{kind}_{name}": n for kind, counts in counted for name, n in counts.items() if name.startswith("without_")}


def _alarm_of_reading(cfg: Prepare, total: dict[str, Any]) -> None:
    """Stop when most of a source could not be read (it is of another form), or decontamination took most of it."""
    unread = total["unread"]
    lost = [("rows that could not be read", source, unread.get(source, 0), _ALARM_UNREAD) for source in total["by_source"]]
    lost.append(("rows that could not be read", "all sources", sum(unread.values()), _ALARM_UNREAD))
    lost += [
        ("documents that decontamination takes", source, counts.get("contaminated", 0), _ALARM_CONTAMINATED)
        for source, counts in total["by_source"].items()
    ]
    for what, source, count, least in lost:
        rows = total["rows_in"] if source == "all sources" else sum(total["by_source"][source].values())
        if rows >= least and count > cfg.max_source_loss * rows:
            reasons = total["dropped"] if source == "all sources" else total["by_source"][source]
            listed = ", ".join(f"{reason} {n:,}" for reason, n in sorted(reasons.items()) if reason != "kept")
            found = f" (the rows have: {', '.join(total['columns'])})" if total["columns"] else ""
            raise DataError(
                f"{count:,} of {rows:,} are {what} ({listed}); max_source_loss is {cfg.max_source_loss:.0%}",
                where=source,
                next=f"look at the examples with keep_rejected, and at the source's kind and columns{found}; raise "
                "max_source_loss if it is right, and run again: work is kept",
            )


def _alarm(cfg: Prepare, total: dict[str, Any]) -> None:
    """Stop when dedup all but wiped out a source: more often a template or boilerplate than real duplicates."""
    if not cfg.dedup:
        return
    for source, counts in total["swept"].items():
        rows = sum(counts.values())
        lost = sum(count for reason, count in counts.items() if reason not in ("kept", "not_selected", "no_score"))
        if rows >= _ALARM_ROWS and lost > cfg.max_source_loss * rows:
            raise DataError(
                f"dedup takes {lost:,} of {rows:,} documents ({lost / rows:.0%}); max_source_loss is {cfg.max_source_loss:.0%}",
                where=source,
                next="look at the examples with keep_rejected; raise max_source_loss if it is right, and run again: work is kept",
            )


def _facts(total: dict[str, Any]) -> dict[str, Any]:
    sources = total["by_source"]
    # one line per source would make a manifest of a million files unreadable: all are in sources.json
    worst = sorted(sources, key=lambda source: sources[source].get("kept", 0) - sum(sources[source].values()))[:_SHOWN_SOURCES]
    return {
        "rows": total["rows"],
        "bytes": total["bytes"],
        "columns": total["shard_columns"],
        "sources": len(sources),
        "dropped": total["dropped"],
        "dropped_by_source": {source: sources[source] for source in sorted(worst)},
        "dropped_examples": {reason: [example["where"] for example in places] for reason, places in total["examples"].items()},
        "cleaned": total["cleaned"],
        "steps": total["steps"],
        "sweeps": total["sweeps"],
    }


def _nothing_left(total: dict[str, Any]) -> DataError:
    reasons = ", ".join(f"{reason} {count}" for reason, count in total["dropped"].items()) or "the files are empty"
    places = "; ".join(f"{reason} at {examples[0]['where']}" for reason, examples in total["examples"].items())
    columns = f"; the rows have the columns {', '.join(total['columns'])}" if total["columns"] else ""
    remedy = "set text_column to a column that exists, or map them: columns = {prompt = ..., completion = ...}"
    remedy = remedy if columns else "look at the places named, or loosen the filters"
    return DataError(f"no row is left of {total['rows_in']}: {reasons}{columns}", where=places or None, next=remedy)


def _settle(out: Folder, read: Folder, moved: list[str], total: dict[str, Any]) -> None:
    """Move the files of rows that reading dropped to the output; those of an earlier attempt on other files are removed."""
    for name in moved:
        out.write(name, read.read(name))
    ours = {*total["shards"], *total["rejected"]}
    for name in out.files():
        if name.startswith(("documents-", "rejected-")) and name not in ours:
            out.remove(name)
