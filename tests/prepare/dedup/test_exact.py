"""The first of equal rows stays, however the rows are cut into shards."""

import numpy as np
import pyarrow as pa

from raylm.data.records import document, schema
from raylm.prepare.dedup.exact import Exact


def _table(*texts, records=None):
    rows = [document("a", at, at + 1, text, (records or {}).get(at)) for at, text in enumerate(texts)]
    return pa.Table.from_pylist(rows, schema=schema())


def test_normalised_text_decides():
    card = Exact()
    keys = card.keys(_table("Hello  World", "hello\nworld", "hello, world", "\uff28ello world"))
    assert card.keep([keys])[0].tolist() == [True, False, True, False]


def test_structured_rows_are_compared_whole():
    card = Exact()
    pair = {"prompt": "q", "chosen": "a"}
    table = _table("q", "q", "q", records={at: pair | {"rejected": answer} for at, answer in enumerate("bcb")})
    assert card.keep([card.keys(table)])[0].tolist() == [True, True, False]


def test_any_cut_keeps_the_same_rows():
    card, draw = Exact(), np.random.default_rng(0)
    keys = card.keys(_table(*(f"text {draw.integers(60)}" for _ in range(300))))
    whole = card.keep([keys])[0]
    seen = set()
    assert whole.tolist() == [not (bytes(key) in seen or seen.add(bytes(key))) for key in keys]
    for cuts in ([100], [1, 2, 299], [0, 150, 150, 300], sorted(draw.integers(0, 300, 9))):
        parts = card.keep(np.split(keys, cuts))
        assert [len(part) for part in parts] == [len(part) for part in np.split(keys, cuts)]
        assert np.concatenate(parts).tolist() == whole.tolist()
