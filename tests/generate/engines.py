"""A pool without engines behind the methods that the stage asks, and a drawing with it; as a process it ends itself where it is
told to: `python -m tests.generate.engines ROOT STAGE ANSWERS`."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

from raylm.core.artifact import Artifact, Documents
from raylm.core.errors import DataError, StageError
from raylm.data.records import document, schema
from raylm.data.shards import write_parquet
from raylm.generate.asked import Reader, units_of
from raylm.generate.config import Generate
from raylm.generate.draw import Draw
from raylm.generate.render import Renderer
from raylm.inference.completions import Completion, Quarantined
from tests.model.tiny import tiny_tokenizer
from tests.stages import context

CONFIG: dict[str, Any] = {
    "stage": "generate",
    "documents": "texts",
    "model": "./m",
    "chat": False,
    "sampling": {"max_tokens": 8, "n": 2, "seed": 3},
    "rows_per_shard": 8,
    "max_prompt": 40,
    "max_rejected": 0.5,
}
TEXTS = [f"text number {number}" for number in range(20)]
TEXTS[3], TEXTS[9], TEXTS[17] = "poison", "word " * 60, "with <|user|> in it"


class Engines:
    """Answers are a function of prompt and seed, and come in an order of their own."""

    def __init__(self, ends_at: int = 0) -> None:
        self.ends_at, self.answered, self.most = ends_at, 0, 0
        self.waiting: dict[Any, tuple[list[int], Any, int]] = {}
        self.order = random.Random(ends_at)

    def submit(self, key: Any, tokens: list[int], sampling: Any, seed: int) -> None:
        self.waiting[key] = (tokens, sampling, seed)
        self.most = max(self.most, len(self.waiting))

    def answers(self, timeout_s: float) -> list[Any]:
        found = []
        for key in self.order.sample(sorted(self.waiting), min(2, len(self.waiting))):
            tokens, sampling, seed = self.waiting.pop(key)
            self.answered += 1
            if self.ends_at and self.answered > self.ends_at:
                os.kill(os.getpid(), signal.SIGKILL)
            found.append((key, self.answer(tokens, sampling, seed)))
        return found

    def answer(self, tokens: list[int], sampling: Any, seed: int) -> Any:
        if tokens == tiny_ids("poison"):
            return Quarantined(3, "out of memory")
        if tokens == tiny_ids(TEXTS[11]):
            return StageError("ValueError: it does not like this one")
        drawn = hashlib.blake2b(f"{tokens} {seed}".encode(), digest_size=8).hexdigest()
        ends = ("length", "stop")
        return [
            Completion([1, 2, 3], [-0.5, -1.0, -1.0001 * place], f" {drawn} {place}", ends[place % 2], ())
            for place in range(sampling.n)
        ]


_TOKENIZER = None


def tokenizer() -> Any:
    global _TOKENIZER
    _TOKENIZER = _TOKENIZER or tiny_tokenizer(300)
    return _TOKENIZER


def tiny_ids(text: str) -> list[int]:
    return tokenizer()(text)["input_ids"]


def make_texts(root: Path, name: str = "texts", texts: Any = None, records: Any = None) -> Artifact:
    """Documents in two shards."""
    import pyarrow as pa

    texts = texts or TEXTS
    ctx, counts = context(root, name), {}
    rows = [document("raw.txt", 10 * at, 10 * at + 9, text, (records or {}).get(at)) for at, text in enumerate(texts)]
    for number, part in enumerate((rows[:13], rows[13:])):
        if part:
            counts[f"documents-{number:05d}.parquet"] = len(part)
            write_parquet(ctx.out, f"documents-{number:05d}.parquet", pa.Table.from_pylist(part, schema=schema()))
    return ctx.commit(Documents, facts={"rows": len(texts)}, rows=counts)


def draw(root: Path, name: str, engines: Engines, window: int = 5, **table: Any) -> Any:
    """The context after a drawing, and its marks."""
    from raylm.core.artifact import open_artifact
    from raylm.core.storage import Folder

    cfg = Generate(**CONFIG | table)
    artifact, ctx = open_artifact(Folder(root / "texts")), context(root, name, cfg)
    reader = Reader(artifact, Renderer(tokenizer(), cfg.template, cfg.system, cfg.chat))
    drawing: Any = Draw(cfg, ctx, engines, reader, cfg.max_prompt, window)  # type: ignore[arg-type]
    return ctx, drawing.run(units_of(artifact, cfg.rows_per_shard, cfg.num_rows))


if __name__ == "__main__":
    try:
        draw(Path(sys.argv[1]), sys.argv[2], Engines(int(sys.argv[3])))
    except DataError as failure:
        sys.exit(str(failure))
