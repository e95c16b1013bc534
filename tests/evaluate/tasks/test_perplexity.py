"""Held-out documents, one by one, by source."""

from __future__ import annotations

import json
import math

import pyarrow as pa
import pytest
import torch

from raylm.core.artifact import Tokens
from raylm.data.lineage import index_name, index_schema
from raylm.data.shards import Rows, shard_name, write_arrow, write_parquet
from raylm.evaluate.examine import examine
from raylm.evaluate.instances import means
from raylm.evaluate.lm import LM
from raylm.evaluate.tasks.perplexity import Perplexity
from tests.model.tiny import tiny_checkpoint, tiny_tokenizer
from tests.rows import make_rows
from tests.stages import context


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    at = tmp_path_factory.mktemp("job")
    tiny_checkpoint(at / "own", vocab=300, layers=1)
    tiny_checkpoint(at / "other", vocab=400, layers=1)
    return at


def by_hand(lm, text):
    """Nats of a text behind the begin token, by transformers' own loss."""
    tokens = torch.tensor([[1, *lm.tokenizer.encode(text)]])
    model = lm._scorer._loaded()
    with torch.no_grad():
        return float(model(tokens, labels=tokens).loss) * (tokens.shape[1] - 1)


def test_documents_of_packed_rows_are_parted(root):
    tokenizer = tiny_tokenizer(300)
    texts = ["A class is a type.", "Ünïcode, 東京.", "A module is a file."]
    parts = [tokenizer.encode(text) for text in texts]
    ctx, name = context(root, "packed"), shard_name("held_out", 0, "arrow")
    row = [*parts[0], 2, *parts[1], 2, *parts[2], 2]
    write_arrow(ctx.out, name, pa.Table.from_pylist([{"tokens": row}]))
    starts = [0, len(parts[0]) + 1, len(parts[0]) + len(parts[1]) + 2]
    lines = [
        {"id": f"d{at}", "source": source, "start": 0, "end": 1, "meta": json.dumps({"language": "en"}), "num_tokens": len(part),
         "rows": [0], "positions": [start], "lengths": [len(part) + 1]}
        for at, (source, part, start) in enumerate(zip(["python", "world", "python"], parts, starts, strict=True))
    ]  # fmt: skip
    write_parquet(ctx.out, index_name(name), pa.Table.from_pylist(lines, schema=index_schema()))
    tokenizer.save_pretrained(ctx.out.path("tokenizer"))
    ctx.commit(Tokens, facts={"vocab_size": 300}, rows={name: 1, index_name(name): 3})

    card, lm = Perplexity(rows="packed", by=["language", "nothing"]), LM(str(root / "own"))
    found = card.grade(lm, Rows.open(str(root / "packed"), "held_out"))
    assert [one.asked for one in found] == texts
    assert found[1].facts == {"source": "world", "cluster": "d1", "language": "en"}
    nats = [by_hand(lm, text) for text in texts]
    assert [one.values["perplexity"] for one in found] == pytest.approx(nats, rel=1e-5)
    counts, sizes = [len(part) for part in parts], [len(text.encode()) for text in texts]
    assert card.summary(found) == {
        "perplexity": pytest.approx(math.exp(sum(nats) / sum(counts)), rel=1e-5),
        "document_bits_per_byte": pytest.approx(sum(nats) / sum(sizes) / math.log(2), rel=1e-5),
    }
    assert means(found[1:2])["document_bits_per_byte"] == pytest.approx(nats[1] / math.log(2) / sizes[1], rel=1e-5)


def test_a_model_of_another_tokenizer_reads_the_same_text(root):
    tokenizer = tiny_tokenizer(300)
    make_rows(root, "rows", Tokens, [{"tokens": tokenizer.encode("A class is a type."), "source": "python"}] * 2, held_out=1)
    mark = examine(LM(str(root / "other")), Perplexity(rows="rows"), str(root / "rows"))
    lm = LM(str(root / "other"))
    bits = by_hand(lm, "A class is a type.") / math.log(2) / len("A class is a type.")
    assert mark.grades["document_bits_per_byte"] == pytest.approx(bits, rel=1e-5)
