"""Takes distinct text, leaves how fast one core encodes it: Hugging Face tokenizers against raylm's encoder, with a byte-level
BPE of 32,000 entries trained by raylm on a part of it. The ids of all documents are compared. Processes alternate."""

from __future__ import annotations

import hashlib
import json
import os
import site
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

ROUNDS, VOCAB_SIZE, GOAL = 3, 32_000, 5.0
MOST_BYTES = int(os.environ.get("RAYLM_BENCH_BYTES", 200_000_000))
ENDINGS = (".py", ".pyi", ".txt", ".md", ".rst", ".c", ".h", ".hpp", ".js", ".json")


def corpus() -> list[str]:
    """Distinct files of $RAYLM_BENCH_TEXT or of this Python and its packages, up to the size; files over 1 MB are left out."""
    given = os.environ.get("RAYLM_BENCH_TEXT")
    roots = [given] if given else [sysconfig.get_paths()["stdlib"], *site.getsitepackages()]
    texts, seen, size = [], set(), 0
    for path in (path for root in roots for path in sorted(Path(root).rglob("*")) if path.suffix in ENDINGS and path.is_file()):
        content = path.read_bytes()
        digest = hashlib.blake2b(content, digest_size=16).digest()
        if digest in seen or not 200 < len(content) < 1_000_000:
            continue
        try:
            texts.append(content.decode())
        except UnicodeDecodeError:
            continue
        seen.add(digest)
        size += len(content)
        if size >= MOST_BYTES:
            break
    return texts


def train(texts: list[str], at: Path) -> dict[str, float]:
    """A tokenizer from every tenth text; leaves seconds."""
    from raylm.tokenize.trainers.bpe import Bpe
    from raylm.tokenize.trainers.counts import count_texts

    card, part = Bpe(vocab_size=VOCAB_SIZE), texts[::10]
    started = time.perf_counter()
    counted = count_texts(part, card.pre_tokenization(at))
    middle = time.perf_counter()
    card.train(counted, at)
    counting, merging = middle - started, time.perf_counter() - middle
    print(f"trained on {counted.num_bytes / 1e6:.0f} MB, {counted.num_words} words: {counting:.1f} + {merging:.1f} s", flush=True)
    return {"count_s": round(counting, 2), "merge_s": round(merging, 2)}


def encode(way: str, at: Path) -> None:
    """One measured process: CPU seconds of all but reading files and loading the tokenizer, and a digest of all ids.

    CPU time and not wall time: other work on the machine must not count."""
    import numpy as np

    from raylm.tokenize.encode import encoder
    from raylm.tokenize.tokenizers import load

    tokenizer, texts = load(at), json.loads((at / "texts.json").read_text())
    digest, name = hashlib.blake2b(digest_size=16), "tokenizers"
    started, began = time.process_time(), time.perf_counter()
    if way == "ours":
        made = encoder(tokenizer, texts)
        name = made.name
    else:
        tokenizer.backend_tokenizer.encode_special_tokens = True
    for begin in range(0, len(texts), 256):
        batch = texts[begin : begin + 256]
        if way == "ours":
            ids, offsets = made(batch)
        else:
            found = tokenizer.backend_tokenizer.encode_batch_fast(batch, add_special_tokens=False)
            parts = [np.array(encoding.ids, np.int32) for encoding in found]
            ids, offsets = np.concatenate(parts), np.cumsum([0, *map(len, parts)])
        digest.update(ids.tobytes())
        digest.update(offsets.tobytes())
    seconds, wall_s = time.process_time() - started, time.perf_counter() - began
    print(json.dumps({"seconds": seconds, "wall_s": wall_s, "digest": digest.hexdigest(), "name": name}))


def measured(way: str, at: Path) -> dict:
    """A process of its own on one core."""
    core = sorted(os.sched_getaffinity(0))[-1]
    command = ["taskset", "-c", str(core), sys.executable, "-m", "tests.bench.tokenize", way, str(at)]
    environ = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1", "PYTHONPATH": "."}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environ)
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    import tokenizers

    texts = corpus()
    size = sum(len(text.encode()) for text in texts)
    plain = sum(text.isascii() for text in texts) / len(texts)
    print(f"{len(texts)} distinct documents, {size / 1e6:.0f} MB, {plain:.1%} of them ASCII", flush=True)
    rates: dict[str, list[float]] = {"ours": [], "theirs": []}
    found = set()
    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder)
        spent = train(texts, at)
        (at / "texts.json").write_text(json.dumps(texts))
        del texts
        for lap in range(ROUNDS):
            for way in ("ours", "theirs"):
                # the peer takes a minute and more: it is measured once, unless asked
                if way == "theirs" and lap and not os.environ.get("RAYLM_BENCH_ROUNDS"):
                    continue
                made = measured(way, at)
                rates[way].append(size / 1e6 / made["seconds"])
                found.add(made["digest"])
                print(f"{way} ({made['name']}): {rates[way][-1]:.1f} MB/s, wall {made['wall_s']:.0f} s", flush=True)
    ours, theirs = (statistics.median(rates[way]) for way in ("ours", "theirs"))
    print(
        json.dumps(
            {
                "name": "tokenize",
                "peer": "Hugging Face tokenizers, encode_batch_fast",
                "peer_version": tokenizers.__version__,
                "ours": round(ours, 1),
                "theirs": round(theirs, 2),
                "unit": "MB per CPU second",
                "ratio": round(ours / theirs, 1),
                "goal": GOAL,
                "quality": {"ids_equal": len(found) == 1, "megabytes": round(size / 1e6), "training": spent},
                "ok": len(found) == 1 and ours / theirs >= GOAL,
            }
        )
    )


if __name__ == "__main__":
    if len(sys.argv) == 3:
        encode(sys.argv[1], Path(sys.argv[2]))
    else:
        main()
