"""HTML pages of reports, from numbers and texts: one file without outside parts, opens offline, light and dark.

Documents are hostile: every function escapes the plain values that it is given; only parts made here go in as they are.
"""

from __future__ import annotations

import base64
import difflib
import html
from collections.abc import Iterable, Sequence
from typing import Any

_CELL_CHARS = 120
_TEXT_CHARS = 600
_STYLE = """
:root{color-scheme:light dark;--ink:#1d2129;--soft:#667080;--line:#e3e6eb;--ground:#fff;--panel:#f6f7f9;--main:#3c6fb4;
--lost:#d9805f;--mark:#ffe9a8;--on:#d7e8d4;--alt:#eceff4}
@media(prefers-color-scheme:dark){:root{--ink:#d9dde3;--soft:#8f99a8;--line:#30353d;--ground:#15181d;--panel:#1d2127;
--main:#6f9fdd;--lost:#c9714f;--mark:#5c4a12;--on:#27452a;--alt:#272c34}}
*{box-sizing:border-box}body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--ground);margin:0 auto;
padding:2.5rem 1.5rem 5rem;max-width:72rem}h1{font-size:1.6rem;font-weight:600;margin:0}h2{font-size:1.1rem;font-weight:600;
margin:3rem 0 .75rem;padding-top:.75rem;border-top:1px solid var(--line)}
h3{font-size:.95rem;font-weight:600;margin:1.5rem 0 .4rem}
p,small,.note{color:var(--soft)}p{margin:.3rem 0 .8rem;max-width:52rem}.scroll{overflow:auto;max-height:30rem}
.scroll th{position:sticky;top:0;background:var(--ground)}.scroll td:first-child:not(.n){min-width:11rem}
table{border-collapse:collapse;font-size:.9rem}td,th{padding:.28rem .9rem .28rem 0;border-bottom:1px solid var(--line);
text-align:left;vertical-align:top;unicode-bidi:isolate;overflow-wrap:anywhere}th{color:var(--soft);font-weight:500;
vertical-align:bottom}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap;overflow-wrap:normal}
.tiles{display:flex;flex-wrap:wrap;gap:.75rem;margin:1.5rem 0}.tiles div{background:var(--panel);border-radius:.5rem;
padding:.7rem 1.1rem;min-width:8.5rem}.tiles b{display:block;font-size:1.35rem;font-weight:600;font-variant-numeric:tabular-nums}
.tiles span{color:var(--soft);font-size:.82rem}.bars{width:100%}
.bars td:first-child{width:16rem}.bars td.bar{width:auto}.bars td.n{width:7rem}
.track{display:flex;height:.95rem;margin-top:.25rem;min-width:6rem}
.track i{background:var(--main)}.track i.gone{background:var(--lost)}
svg{display:block;max-width:100%;height:auto;overflow:visible}
svg rect{fill:var(--main)}svg text{fill:var(--soft);font:11px system-ui,sans-serif}
svg line{stroke:var(--line)}.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(24rem,1fr));gap:1rem 2rem}
.text{white-space:pre-wrap;overflow-wrap:anywhere;background:var(--panel);border-radius:.4rem;padding:.6rem .8rem;margin:.2rem 0;
font:13px/1.5 ui-monospace,monospace;unicode-bidi:plaintext;max-height:16rem;overflow-y:auto}.beside{display:grid;
grid-template-columns:1fr 1fr;gap:.75rem;margin:.5rem 0 1rem}@media(max-width:46rem){.beside{grid-template-columns:1fr}}
mark{background:var(--mark);color:inherit;border-radius:.15rem}
.tokens span{border-radius:.15rem;border-right:1px solid var(--line)}
.tokens .off{color:var(--soft)}.tokens .on{background:var(--on)}details{margin:.4rem 0}summary{cursor:pointer;color:var(--soft)}
img{max-width:100%}
"""


def page(title: str, note: str, parts: Iterable[tuple[str, str]]) -> str:
    """The whole page: a title, a line under it, and (heading, HTML) parts; an empty part is left out."""
    body = "".join(f"<h2>{escape(heading)}</h2>\n{part}\n" if heading else f"{part}\n" for heading, part in parts if part)
    whole = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        # no script of a document could run, even if it came through
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">"
        f"<title>{escape(title)}</title><style>{_STYLE}</style>\n<h1>{escape(title)}</h1>\n<p>{escape(note)}</p>\n{body}</html>\n"
    )
    # half a surrogate pair, of a file's name, has no UTF-8
    return whole.encode("utf-8", "replace").decode()


def escape(value: Any, most: int | None = None) -> str:
    """Plain text for HTML, cut after `most` characters."""
    text = str(value)
    return html.escape(text if most is None or len(text) <= most else f"{text[:most]}…")


def number(value: Any) -> str:
    """`1,234,567`, `0.1235`, a dash for nothing; texts as they are."""
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or (abs(value) >= 1000 and value == value):
        return f"{value:,.0f}"
    return f"{value:.4g}"


def share(part: float, whole: float) -> str:
    """`12.3%`; a dash of nothing."""
    return f"{part / whole:.1%}" if whole else "-"


def size(count: float) -> str:
    """Bytes in a readable unit: `1.2 GB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"


def tiles(values: Iterable[tuple[str, str]]) -> str:
    """(label, value) in large digits."""
    shown = "".join(f"<div><b>{escape(value, 40)}</b><span>{escape(label)}</span></div>" for label, value in values)
    return f'<div class="tiles">{shown}</div>'


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Rows of values; columns that are mostly numbers (or shares) stand to the right."""
    if not rows:
        return ""
    right = [2 * sum(_is_number(row[at]) for row in rows) > len(rows) for at in range(len(head))]
    kinds = [' class="n"' if numeric else "" for numeric in right]
    top = "".join(f"<th{kind}>{escape(name, _CELL_CHARS)}</th>" for name, kind in zip(head, kinds, strict=True))
    body = "".join(
        "<tr>"
        + "".join(f"<td{kind}>{escape(number(v), _CELL_CHARS)}</td>" for v, kind in zip(row, kinds, strict=True))
        + "</tr>\n"
        for row in rows
    )
    return f'<div class="scroll"><table><tr>{top}</tr>\n{body}</table></div>'


def bars(rows: Sequence[tuple[str, float]], whole: float | None = None) -> str:
    """(label, value) as bars; beside each its share of `whole`, where that is given."""
    longest = max((value for _, value in rows), default=0)
    return _bars([(label, [("", value)], value, share(value, whole) if whole else "") for label, value in rows], longest)


def funnel(start: int, losses: Sequence[tuple[str, int]], first: str, last: str) -> str:
    """What comes in, what is lost on the way, what is left: the lost part of each bar is where the next one ends."""
    rows, left = [(first, [("", start)], start, "")], start
    for reason, count in losses:
        left -= count
        rows.append((reason, [("", left), ("gone", count)], -count, share(-count, start)))
    return _bars([*rows, (last, [("", left)], left, share(left, start))], start)


def columns(rows: Sequence[tuple[str, float]], caption: str = "") -> str:
    """(label, value) as a histogram in SVG; labels that would overlap are left out."""
    if not rows:
        return ""
    wide, high, foot = 480, 130, 18
    tallest, step = max(value for _, value in rows) or 1, wide / len(rows)
    every = -(-len(rows) * 54 // wide)
    drawn = [f'<line x1="0" y1="{high}" x2="{wide}" y2="{high}"/>']
    for at, (label, value) in enumerate(rows):
        tall = max(value / tallest * (high - 14), 1 if value else 0)
        where = f'x="{at * step + 1:.1f}" y="{high - tall:.1f}" width="{max(step - 2, 1):.1f}" height="{tall:.1f}"'
        drawn.append(f"<rect {where}><title>{escape(label, 60)}: {number(value)}</title></rect>")
        if at % every == 0:
            drawn.append(f'<text x="{at * step + 1:.1f}" y="{high + 14}">{escape(label, 12)}</text>')
    drawn.append(f'<text x="{wide}" y="10" text-anchor="end">{number(tallest)}</text>')
    title = f"<h3>{escape(caption, _CELL_CHARS)}</h3>" if caption else ""
    return f'<div>{title}<svg viewBox="0 0 {wide} {high + foot}" width="{wide}" role="img">{"".join(drawn)}</svg></div>'


def charts(parts: Iterable[str]) -> str:
    """Charts side by side."""
    shown = "".join(parts)
    return f'<div class="charts">{shown}</div>' if shown else ""


def text(value: str) -> str:
    """A document's text, as it is, cut short."""
    return f'<div class="text" dir="auto">{escape(value, _TEXT_CHARS)}</div>'


def beside(left: str, right: str, heads: tuple[str, str]) -> str:
    """Two texts side by side; the words that only one of them has are marked."""
    words = [value[:_TEXT_CHARS].split(" ") for value in (left, right)]
    codes = difflib.SequenceMatcher(None, *words, autojunk=False).get_opcodes()
    shown = []
    for side, head in enumerate(heads):
        pieces = []
        for tag, *bounds in codes:
            start, end = bounds[2 * side : 2 * side + 2]
            if start < end:
                piece = escape(" ".join(words[side][start:end]))
                pieces.append(piece if tag == "equal" else f"<mark>{piece}</mark>")
        shown.append(
            f'<div><small>{escape(head, _CELL_CHARS)}</small><div class="text" dir="auto">{" ".join(pieces)}</div></div>'
        )
    return f'<div class="beside">{"".join(shown)}</div>'


def tokens(pieces: Sequence[tuple[str, bool]]) -> str:
    """(text, whether it counts for the loss) of each token; those that do not are pale."""
    shown = "".join(f'<span class="{"on" if on else "off"}">{escape(piece, 40)}</span>' for piece, on in pieces)
    return f'<div class="text tokens" dir="auto">{shown}</div>'


def note(value: str) -> str:
    """A line of explanation."""
    return f"<p>{escape(value, _TEXT_CHARS)}</p>"


def heading(value: str) -> str:
    """A heading inside a part."""
    return f"<h3>{escape(value, _CELL_CHARS)}</h3>"


def fold(summary: str, part: str) -> str:
    """A part that opens on a click."""
    return f"<details><summary>{escape(summary, _CELL_CHARS)}</summary>{part}</details>" if part else ""


def picture(png: bytes, said: str) -> str:
    """A PNG inside the page."""
    return f'<img alt="{escape(said)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def facts(values: dict[str, Any], most: int = 50) -> str:
    """A dictionary as it comes: plain values in one table; of what is nested, tables of records and bars of counts."""
    plain = [(name.replace("_", " "), value) for name, value in values.items() if not isinstance(value, dict | list)]
    parts = [table(("fact", "value"), plain[:most])]
    for name, value in values.items():
        inner = value
        if isinstance(inner, dict) and inner and all(isinstance(item, dict) for item in inner.values()):
            inner = [{name: key, **item} for key, item in inner.items()]
        shown = _nested(inner, most) if isinstance(inner, dict | list) and inner else ""
        parts.append(heading(name.replace("_", " ")) + shown if shown else "")
    return "".join(parts)


def _nested(value: Any, most: int) -> str:
    if isinstance(value, dict):
        if all(isinstance(item, int | float) for item in value.values()):
            return bars([(str(name), item) for name, item in list(value.items())[:most]])
        return table(("fact", "value"), list(value.items())[:most])
    if all(isinstance(item, dict) for item in value):
        names = list(dict.fromkeys(name for item in value[:most] for name in item))
        return table(names, [[item.get(name) for name in names] for item in value[:most]])
    return "".join(f"<p>{escape(item, _TEXT_CHARS)}</p>" for item in value[:most])


def _bars(rows: Sequence[tuple[str, Sequence[tuple[str, float]], float, str]], longest: float) -> str:
    """(label, [(class, value)], number shown, word beside it) as lines of one table."""
    if not rows:
        return ""
    lines = []
    for label, pieces, shown, word in rows:
        drawn = "".join(f'<i class="{kind}" style="width:{max(value, 0) / (longest or 1):.3%}"></i>' for kind, value in pieces)
        numbers = f'<td class="n">{number(shown)}</td><td class="n">{escape(word)}</td>'
        lines.append(f'<tr><td>{escape(label, 60)}</td><td class="bar"><div class="track">{drawn}</div></td>{numbers}</tr>\n')
    return f'<table class="bars">{"".join(lines)}</table>'


def _is_number(value: Any) -> bool:
    if isinstance(value, str):
        return value == "-" or (value[:1].isdigit() and value[-1:] in "%Bs")
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))
