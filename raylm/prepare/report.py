"""report.html of a prepare stage: what was read, what was dropped and why, what is left."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from raylm.core import page
from raylm.core.artifact import REPORT
from raylm.core.storage import Folder
from raylm.data.records import COLUMNS

if TYPE_CHECKING:
    import pyarrow as pa

_SHOWN_SOURCES, _SHOWN_REASONS = 50, 8
# share of unreadable rows above which a warning is printed
_UNREAD_SHARE = 0.1
_SHOWN_EXAMPLES, _SHOWN_REASONS_WITH_EXAMPLES = 3, 40
# rows and shards that the report reads: it must not cost a pass over the corpus
_SAMPLED_SHARDS, _SAMPLED_ROWS = 16, 20_000
_SEARCHED_ROWS = 5_000_000
_BINS, _SHOWN_VALUES = 24, 15
# of the document that stayed, at least: a dropped one is cut at this
_SHOWN_CHARS = 300


def write_report(out: Folder, stage: str, total: dict[str, Any]) -> None:
    """Write `report.html` beside the payload in `out`. It carries times, so it is no part of the artifact's content.

    Args:
        total: what `raylm.prepare.stage.totals` leaves, with `sweeps` {card: facts}.
    """
    rows, rows_in, seconds = total["rows"], total["rows_in"], sum(total["seconds"].values())
    dropped = sorted(total["dropped"].items(), key=lambda item: -item[1])
    shown = [*dropped[:20], *([("other reasons", sum(count for _, count in dropped[20:]))] if dropped[20:] else [])]
    parts = [
        (
            "",
            page.tiles(
                [
                    ("rows in", page.number(rows_in)),
                    ("documents out", page.number(rows)),
                    ("of the rows", page.share(rows, rows_in)),
                    ("text", page.size(total["bytes"])),
                    ("bytes per document", page.number(round(total["bytes"] / max(rows, 1)))),
                    ("sources", page.number(len(total["by_source"]))),
                ]
            ),
        ),
        *([("Rows could not be read", page.note(unread))] if (unread := unread_rows(total)) else []),
        ("From rows to documents", page.funnel(rows_in, shown, "rows in", "documents out")),
        ("By source", _sources(total["by_source"])),
        ("What cleaners changed", _cleaned(total["cleaned"], rows_in)),
        ("Documents as they are left", _left(out, total)),
        *((f"Sweep {name}", page.facts(found)) for name, found in total["sweeps"].items()),
        ("What was dropped, by example", _examples(out, total)),
        ("Time", _time(total["seconds"], rows_in)),
    ]
    subtitle = f"prepare · {page.number(rows_in)} rows read, {seconds:,.0f} s of work over all workers"
    out.write(REPORT, page.page(stage, subtitle, parts))


def unread_rows(total: dict[str, Any]) -> str | None:
    """A warning when more than a tenth of the rows could not be read: how many, and the counts of all drop reasons; else None."""
    unread = sum(total["unread"].values())
    if unread <= _UNREAD_SHARE * total["rows_in"]:
        return None
    ranked = sorted(total["dropped"].items(), key=lambda item: (-item[1], item[0]))[:_SHOWN_REASONS]
    listed = ", ".join(f"{reason} {count:,}" for reason, count in ranked)
    return (
        f"{unread:,} of {total['rows_in']:,} rows ({unread / total['rows_in']:.0%}) could not be read; dropped in all: {listed}"
    )


def print_unread(stage: str, total: dict[str, Any]) -> None:
    """Print the warning of `unread_rows`, if there is one."""
    if unread := unread_rows(total):
        line = f"{stage}: {unread}\n  next: `keep_rejected = true` writes these rows; look at the source's kind and columns"
        Console(stderr=True).print(Text(line, "bold red"), soft_wrap=True)


def _sources(by_source: dict[str, dict[str, int]]) -> str:
    """A line per source, the largest first; a column per reason, the most frequent first."""
    reasons = Counter[str]()
    for counts in by_source.values():
        reasons.update(counts)
    kept = reasons.pop("kept", 0)
    named = [reason for reason, _ in reasons.most_common(_SHOWN_REASONS)]
    by_size = sorted(by_source, key=lambda source: (-sum(by_source[source].values()), source))

    def line(name: str, counts: dict[str, int]) -> list[Any]:
        total, stayed = sum(counts.values()), counts.get("kept", 0)
        lost = [counts.get(reason, 0) for reason in named]
        return [name, total, stayed, page.share(stayed, total), *lost, total - stayed - sum(lost)]

    lines = [line(source, by_source[source]) for source in by_size[:_SHOWN_SOURCES]]
    rest = Counter[str]()
    for source in by_size[_SHOWN_SOURCES:]:
        rest.update(by_source[source])
    if rest:
        lines.append(line(f"{len(by_size) - _SHOWN_SOURCES:,} other sources", rest))
    if len(by_size) > 1:
        lines.append(line("all", reasons | Counter(kept=kept)))
    shown = page.table(["source", "rows", "kept", "share", *named, "other"], lines)
    return shown + page.note("Rows by source; every source is in sources.json.")


def _cleaned(cleaned: dict[str, dict[str, int]], rows_in: int) -> str:
    lines = [
        (kind, what, count, round(count / max(rows_in, 1) * 1000, 2))
        for kind, counts in cleaned.items()
        for what, count in counts.items()
    ]
    return page.table(["cleaner", "what", "count", "per 1,000 rows"], lines)


def _time(seconds: dict[str, float], rows_in: int) -> str:
    whole = sum(seconds.values())
    lines = [
        (name, round(spent, 2), page.share(spent, whole), round(rows_in / spent) if spent else None)
        for name, spent in sorted(seconds.items(), key=lambda item: -item[1])
    ]
    return page.table(["step", "seconds", "share", "rows of the input per second"], lines)


def _left(out: Folder, total: dict[str, Any]) -> str:
    """Histograms of lengths and of every score column, and the most frequent values of columns of words."""
    lengths = {int(k): count for k, count in total["lengths"].items()}
    steps = [(_power(k), lengths.get(k, 0)) for k in range(min(lengths), max(lengths) + 1)] if lengths else []
    drawn = [page.columns(steps, "length in bytes, by powers of two")]
    sampled = _sampled(out, total["shards"])
    if sampled is None:
        return page.charts(drawn)
    words = []
    for name in sampled.column_names:
        values = sampled[name].drop_null()
        if not len(values):
            continue
        if _is_word(values):
            counts = Counter(map(str, values.to_pylist())).most_common()
            rest = sum(count for _, count in counts[_SHOWN_VALUES:])
            rows = [*counts[:_SHOWN_VALUES], *([("other", rest)] if rest else [])]
            words.append(page.heading(name) + page.bars([(value[:60], count) for value, count in rows], len(values)))
        else:
            drawn.append(page.columns(_histogram(values), name))
    caption = page.note(f"Columns are shown by {sampled.num_rows:,} documents, spread over the shards.")
    return page.charts(drawn) + "".join(words) + caption


def _power(k: int) -> str:
    """2^k bytes: `512`, `64 Ki`."""
    return f"{1 << k % 10}{('', ' Ki', ' Mi', ' Gi')[k // 10]}"


def _sampled(out: Folder, shards: dict[str, int]) -> pa.Table | None:
    """Score columns of some rows of some shards; None where there are none."""
    import pyarrow as pa

    names = sorted(shards)
    chosen = names[:: -(-len(names) // _SAMPLED_SHARDS)] if names else []
    tables = []
    for at, name in enumerate(chosen):
        with _opened(out, name) as file:
            columns = [field.name for field in file.schema_arrow if field.name not in COLUMNS and _is_shown(field.type)]
            if columns:
                rows = file.read_row_group(at % file.num_row_groups, columns)
                tables.append(rows.slice(0, _SAMPLED_ROWS // len(chosen)))
    return pa.concat_tables(tables, promote_options="permissive") if tables else None


def _opened(out: Folder, name: str) -> Any:
    import pyarrow.parquet as pq

    if out.is_local:
        return pq.ParquetFile(out.path(name))
    import fsspec

    # a few columns of a few row groups: no reason to fetch the file
    files: Any = fsspec.open(out.path(name), "rb")
    return pq.ParquetFile(files.open())


def _is_shown(kind: pa.DataType) -> bool:
    import pyarrow.types as types

    known = (types.is_floating, types.is_integer, types.is_boolean, types.is_string, types.is_large_string, types.is_dictionary)
    return any(is_one(kind) for is_one in known)


def _is_word(values: pa.ChunkedArray) -> bool:
    import pyarrow.types as types

    return not (types.is_floating(values.type) or types.is_integer(values.type))


def _histogram(values: pa.ChunkedArray) -> list[tuple[str, float]]:
    """Equal steps between the 0.5th and the 99.5th percentile; what lies beyond is counted in the outer ones."""
    import numpy as np

    numbers = values.to_numpy().astype(np.float64)
    numbers = numbers[np.isfinite(numbers)]
    if not len(numbers):
        return []
    low, high = np.percentile(numbers, [0.5, 99.5])
    counts, edges = np.histogram(np.clip(numbers, low, high), bins=_BINS)
    return [(f"{edge:.3g}", int(count)) for edge, count in zip(edges, counts, strict=False)]


def _examples(out: Folder, total: dict[str, Any]) -> str:
    """The first few of each reason; of a duplicate, the document that stayed beside it."""
    examples = dict(sorted(total["examples"].items(), key=lambda item: -total["dropped"].get(item[0], 0)))
    shown = {reason: places[:_SHOWN_EXAMPLES] for reason, places in list(examples.items())[:_SHOWN_REASONS_WITH_EXAMPLES]}
    wanted = {example["because"] for places in shown.values() for example in places if "because" in example}
    keepers = _texts(out, total["shards"], wanted)
    parts = []
    for reason, places in shown.items():
        inner = "".join(_example(example, keepers) for example in places)
        parts.append(page.heading(f"{reason} · {total['dropped'].get(reason, 0):,}") + inner)
    return "".join(parts)


def _example(example: dict[str, Any], keepers: dict[str, tuple[str, str]]) -> str:
    where, lost, because = str(example["where"]), example.get("text"), example.get("because")
    if lost is None:
        return page.note(where)
    if because in keepers:
        source, kept = keepers[because]
        return page.beside(lost, kept[: max(len(lost), _SHOWN_CHARS)], (f"dropped: {where}", f"stayed: {source}"))
    return page.note(where if because is None else f"{where}, because of {because}") + page.text(lost)


def _texts(out: Folder, shards: dict[str, int], ids: set[str]) -> dict[str, tuple[str, str]]:
    """{id: (place, text)} of those documents that are found in the first rows of the kept shards."""
    import pyarrow as pa
    import pyarrow.compute as pc

    found: dict[str, tuple[str, str]] = {}
    seen = 0
    for name in sorted(shards):
        if len(found) == len(ids) or seen >= _SEARCHED_ROWS:
            break
        seen += shards[name]
        with _opened(out, name) as file:
            for group in range(file.num_row_groups):
                column = file.read_row_group(group, ["id"])["id"]
                here = pc.call_function("is_in", [column], pc.SetLookupOptions(pa.array(sorted(ids), column.type)))
                if here.to_pylist().count(True):
                    rows = file.read_row_group(group, ["id", "source", "start", "text"]).filter(here).to_pylist()
                    found |= {row["id"]: (f"{row['source']}:{row['start']}", row["text"]) for row in rows}
    return found
