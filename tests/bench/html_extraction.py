"""Takes a folder of pages and the texts a person found in them, leaves how well and how fast raylm's two extractors find
them, beside the same libraries called directly. F1 is that of scrapinghub's article-extraction-benchmark
(https://github.com/scrapinghub/article-extraction-benchmark): bags of 4-word shingles, precision and recall averaged by page.

RAYLM_BENCH_HTML=folder, or the folder as the argument: `*.html.gz` and `ground-truth.json` ({page: {articleBody: text}}).
"""

from __future__ import annotations

import gzip
import json
import os
import re
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

ROUNDS, SHINGLE, GOAL = 3, 4, 0.99
WORD = re.compile(r"\w+")


def shingles(text: str) -> Counter[tuple[str, ...]]:
    """Runs of four words with their counts; a text of fewer words is one run."""
    words = WORD.findall(text)
    return Counter(tuple(words[at : at + SHINGLE]) for at in range(max(1, len(words) - SHINGLE + 1)))


def precision_recall(truth: str, found: str) -> tuple[float, float]:
    """Of one page. Nothing found where nothing is counts as right."""
    wanted, got = shingles(truth), shingles(found)
    shared = (wanted & got).total()
    return shared / got.total(), shared / wanted.total()


def f1(truths: list[str], found: list[str]) -> float:
    """Harmonic mean of the averages over pages of precision and recall."""
    pairs = [precision_recall(*pair) for pair in zip(truths, found, strict=True)]
    precision, recall = (statistics.mean(side) for side in zip(*pairs, strict=True))
    return 2 * precision * recall / (precision + recall)


def ours(kind: str) -> Callable[[bytes], str]:
    from raylm.core.errors import DataError
    from raylm.data.sources.extract.page import main_text
    from raylm.data.sources.extract.resiliparse import Resiliparse
    from raylm.data.sources.extract.trafilatura import Trafilatura

    card = {"resiliparse": Resiliparse(), "trafilatura": Trafilatura()}[kind]

    def extract(page: bytes) -> str:
        try:
            return main_text(card, page)
        except DataError:
            return ""

    return extract


def theirs(kind: str) -> Callable[[bytes], str]:
    """As the documentation of each has it, less readers' comments, which the truth does not hold either."""
    import trafilatura
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding

    if kind == "trafilatura":
        return lambda page: trafilatura.extract(page, include_comments=False) or ""
    return lambda page: extract_plain_text(bytes_to_str(page, detect_encoding(page)), main_content=True, comments=False)


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("RAYLM_BENCH_HTML", ""))
    if not (folder / "ground-truth.json").is_file():
        sys.exit("name a folder with ground-truth.json and pages: RAYLM_BENCH_HTML=folder")
    known = json.loads((folder / "ground-truth.json").read_text())
    pages = {path.name.removesuffix(".html.gz"): gzip.decompress(path.read_bytes()) for path in folder.glob("*.html.gz")}
    names = sorted(pages.keys() & known.keys())
    truths = [known[name]["articleBody"] for name in names]
    table: dict[str, dict[str, dict[str, float]]] = {}
    for kind in ("resiliparse", "trafilatura"):
        seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
        scores: dict[str, float] = {}
        for _ in range(ROUNDS):
            for side, extract in (("ours", ours(kind)), ("theirs", theirs(kind))):
                started = time.process_time()
                found = [extract(pages[name]) for name in names]
                seconds[side].append(time.process_time() - started)
                scores[side] = f1(truths, found)
        table[kind] = {
            side: {"f1": round(scores[side], 4), "pages_s": round(len(names) / statistics.median(seconds[side]), 1)}
            for side in ("ours", "theirs")
        }
        print(kind, table[kind], flush=True)
    worst = min(table.values(), key=lambda sides: sides["ours"]["f1"] / sides["theirs"]["f1"])
    ratio = worst["ours"]["f1"] / worst["theirs"]["f1"]
    print(
        json.dumps(
            {
                "name": "html_extraction",
                "peer": "resiliparse and trafilatura called directly",
                "peer_version": f"{metadata.version('resiliparse')}, {metadata.version('trafilatura')}",
                "ours": worst["ours"]["f1"],
                "theirs": worst["theirs"]["f1"],
                "unit": f"F1 over {len(names)} pages, of the extractor that compares worse",
                "ratio": round(ratio, 4),
                "goal": GOAL,
                "quality": table,
                "ok": ratio >= GOAL,
            }
        )
    )


if __name__ == "__main__":
    main()
