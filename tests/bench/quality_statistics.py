"""Takes documents of real lines and paragraphs, leaves how fast one core makes all Gopher, C4, FineWeb and NeMo Curator
statistics (raylm: one pass, 69 columns) and how fast NeMo Curator makes its 28, with how many of its scores are the same.

RAYLM_BENCH_MB (200) is raylm's share of text, repeated from what every Python carries and RAYLM_BENCH_TEXT, a folder of .txt;
the peer runs on RAYLM_BENCH_PEER_MB (4) of it. Both are timed by the processor, on one core, in process, reading aside.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from importlib import import_module
from pathlib import Path

from tests.bench.near_copies.peers import python_of

PEER, VERSION, GOAL, ROUNDS = "nemo-curator", "1.4.0", 20.0, 3
SAMPLE = 400

THEIRS = """
import json, sys, time
from nemo_curator.stages.text.filters.heuristic import string as s
from nemo_curator.stages.text.filters.heuristic.repetition import repetition as r
texts = json.load(open(sys.argv[1]))
filters = [s.NonAlphaNumericFilter(), s.SymbolsToWordsFilter(), s.NumbersFilter(), s.UrlsFilter(), s.WhiteSpaceFilter(),
    s.ParenthesesFilter(), s.BoilerPlateStringFilter(), r.RepeatedLinesFilter(), r.RepeatedParagraphsFilter(),
    r.RepeatedLinesByCharFilter(), r.RepeatedParagraphsByCharFilter(), s.WordCountFilter(), s.PunctuationFilter(),
    s.WordsWithoutAlphabetsFilter(), s.CommonEnglishWordsFilter(), s.MeanWordLengthFilter(), s.LongWordFilter(),
    s.EllipsisFilter(), *(r.RepeatingTopNGramsFilter(n=n) for n in (2, 3, 4)),
    *(r.RepeatingDuplicateNGramsFilter(n=n) for n in range(5, 11)), s.BulletsFilter()]
started = time.process_time()
scores = [[float(one.score_document(text)) for text in texts] for one in filters]
print(json.dumps({"seconds": time.process_time() - started, "scores": scores}))
"""

OURS = """
import json, sys, time
import numpy as np, pyarrow as pa
from raylm.prepare.score.statistics import COLUMNS, Statistics
texts, megabytes = json.load(open(sys.argv[1])), float(sys.argv[2])
sizes = sum(len(text.encode()) for text in texts)
table = pa.table({"text": pa.array(texts, pa.large_string())})
made = Statistics().score(table)
batches, done = max(1, round(megabytes * 1e6 / sizes)), 0
started = time.process_time()
for _ in range(batches):
    Statistics().score(table)
seconds = time.process_time() - started
scores = [made[name].tolist() for name in COLUMNS["nemo"]]
print(json.dumps({"rate": batches * sizes / 1e6 / seconds, "scores": scores, "megabytes": batches * sizes / 1e6}))
"""


def documents() -> list[str]:
    """Texts of about 3000 characters with their lines and paragraphs, in a fixed order."""
    texts = list(import_module("pydoc_data.topics").topics.values())
    for name in sorted(sys.stdlib_module_names):
        if name.startswith(("_", "this", "antigravity", "idlelib", "turtle")):
            continue
        try:
            module = import_module(name)
        except ImportError:
            continue  # not on this platform
        things = inspect.getmembers(module, lambda thing: inspect.isclass(thing) or inspect.isroutine(thing))
        texts.append("\n\n".join([inspect.getdoc(module) or "", *(inspect.getdoc(thing) or "" for _, thing in sorted(things))]))
    if folder := os.environ.get("RAYLM_BENCH_TEXT"):
        texts += [path.read_text(errors="replace") for path in sorted(Path(folder).rglob("*.txt"))]
    made = []
    for text in texts:
        lines, held = text.encode(errors="replace").decode().splitlines(keepends=True), ""
        for line in [*lines, ""]:
            if held and (len(held) > 3000 or not line):
                made.append(held)
                held = ""
            held += line
    return [text for text in dict.fromkeys(made) if text.strip()]


def timed(python: str | Path, code: str, *arguments: object) -> dict:
    """What a fresh Python on one core prints last, as JSON."""
    done = subprocess.run(
        ["taskset", "-c", str(max(os.sched_getaffinity(0))), str(python), "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=3600,
        env=os.environ | {"PYTHONPATH": os.getcwd(), "PYTHONHASHSEED": "0", "PYTHONWARNINGS": "ignore"},
    )
    if done.returncode:
        raise RuntimeError(f"{python} failed:\n{(done.stdout + done.stderr)[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def agreement(texts: list[str], ours: list[list[float]], theirs: list[list[float]]) -> dict[str, float]:
    """Share of equal scores of each statistic; of the top n-grams also where no other n-gram stands as often."""
    from raylm.prepare.score.statistics import COLUMNS

    made = {}
    for at, name in enumerate(COLUMNS["nemo"]):
        # the peer stops at two common words
        mine = [min(value, 2.0) for value in ours[at]] if name == "nemo_num_common_words" else ours[at]
        same = [abs(a - b) <= 1e-4 * max(1.0, abs(b)) for a, b in zip(mine, theirs[at], strict=True)]
        made[name] = round(sum(same) / len(same), 5)
        if "top" in name:
            clear = [_has_one_top(text, int(name[9])) for text in texts]
            made[f"{name}_without_ties"] = round(sum(s for s, c in zip(same, clear, strict=True) if c) / max(1, sum(clear)), 5)
            made[f"{name}_ties"] = round(1 - sum(clear) / len(clear), 5)
    return made


def _has_one_top(text: str, n: int) -> bool:
    words = text.split()
    top = Counter(zip(*(words[k:] for k in range(n)), strict=False)).most_common(2)
    return len(top) < 2 or top[0][1] > top[1][1]


def same_verdicts(texts: list[str]) -> dict[str, float]:
    """Share of documents on which the filters say the same (reason included) over the slow reference's columns."""
    import pyarrow as pa

    from raylm.prepare.filters.c4_quality import C4Quality
    from raylm.prepare.filters.fineweb_quality import FinewebQuality
    from raylm.prepare.filters.gopher_quality import GopherQuality
    from raylm.prepare.filters.gopher_repetition import GopherRepetition
    from raylm.prepare.score.statistics import Statistics
    from tests.prepare.score.slow_statistics import slow_statistics

    made = Statistics().score(pa.table({"text": pa.array(texts, pa.large_string())}))
    fast = pa.table({name: pa.array(column) for name, column in made.items()})
    slow = pa.Table.from_pylist([slow_statistics(text) for text in texts])
    slow = pa.table({field.name: slow[field.name].cast(field.type, safe=False) for field in fast.schema})
    cards = (GopherQuality(), GopherRepetition(), C4Quality(), C4Quality(terminal_punctuation=False), FinewebQuality())
    names = ("gopher_quality", "gopher_repetition", "c4_quality", "c4_quality_any_end", "fineweb_quality")
    return {
        name: sum(a == b for a, b in zip(card.judge(fast).reasons, card.judge(slow).reasons, strict=True)) / len(texts)
        for name, card in zip(names, cards, strict=True)
    }


def main() -> None:
    import statistics

    texts = documents()
    few = texts[:: max(1, len(texts) // SAMPLE)]
    size = sum(len(text.encode()) for text in texts) / 1e6
    peer_texts = texts[:: max(1, round(size / float(os.environ.get("RAYLM_BENCH_PEER_MB", "4"))))]
    peer_mb = sum(len(text.encode()) for text in peer_texts) / 1e6
    print(f"{len(texts)} documents, {size:.1f} MB; the peer has {len(peer_texts)}, {peer_mb:.1f} MB", flush=True)
    python = python_of("curator", f"nemo-curator[text_cpu]=={VERSION}")
    megabytes = float(os.environ.get("RAYLM_BENCH_MB", "200")) / ROUNDS
    ours, theirs, quality = [], [], {}
    with tempfile.TemporaryDirectory() as folder:
        whole, part = Path(folder) / "all.json", Path(folder) / "part.json"
        whole.write_text(json.dumps(texts))
        part.write_text(json.dumps(peer_texts))
        for _ in range(ROUNDS):
            started = time.perf_counter()
            mine = timed(sys.executable, OURS, whole, megabytes)
            peer = timed(python, THEIRS, part)
            ours.append(mine["rate"])
            theirs.append(peer_mb / peer["seconds"])
            print(f"ours {ours[-1]:.1f}, theirs {theirs[-1]:.2f} MB/s; {time.perf_counter() - started:.0f} s", flush=True)
        quality = agreement(peer_texts, timed(sys.executable, OURS, part, 0)["scores"], peer["scores"])
    verdicts = same_verdicts(few)
    exact = {name: share for name, share in quality.items() if "top" not in name or name.endswith("without_ties")}
    ratio = round(statistics.median(ours) / statistics.median(theirs), 1)
    good = min(exact.values()) >= 0.999 and min(verdicts.values()) == 1.0
    print(
        json.dumps(
            {
                "name": "quality_statistics",
                "peer": f"{PEER}, 28 English heuristics",
                "peer_version": VERSION,
                "ours": round(statistics.median(ours), 2),
                "theirs": round(statistics.median(theirs), 3),
                "unit": "MB/s of text per core, processor time; ours makes all 69 columns",
                "ratio": ratio,
                "goal": GOAL,
                "quality": {
                    "equal_scores": quality,
                    "same_verdicts_as_slow_reference": verdicts,
                    "numba": importlib.metadata.version("numba"),
                },
                "ok": good and ratio >= GOAL,
            }
        )
    )


if __name__ == "__main__":
    main()
