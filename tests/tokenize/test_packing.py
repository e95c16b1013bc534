"""Packing: nothing lost, nothing twice, no row too long; each way against a slow version of itself and by hand."""

import numpy as np
import pytest

from raylm.tokenize.packing import best_fit, crop, first_fit_decreasing, gather, row_starts, shares


def pieces(layout):
    return [tuple(map(int, piece)) for piece in zip(*layout[:5], strict=True)]


def draw(seed, count=200, longest=60):
    return np.random.default_rng(seed).integers(1, longest, count)


def documents(sizes):
    """Tokens that say which document they are of, and at which place."""
    ends = np.cumsum(sizes)
    flat = np.concatenate([np.arange(size) + 1000 * document for document, size in enumerate(sizes)])
    return flat, ends - sizes


def test_crop_by_hand():
    layout = crop(np.array([3, 4, 1, 2]), 4)
    assert pieces(layout) == [(0, 0, 0, 0, 3), (0, 3, 1, 0, 1), (1, 0, 1, 1, 3), (1, 3, 2, 0, 1)]
    assert layout.num_rows == 2
    assert shares(np.array([3, 4, 1, 2]), layout, 4) == {"pieces": 4, "cut_documents": 1, "cut_tokens": 4, "pad_tokens": 0}
    assert row_starts(layout)[0].tolist() == [0, 3, 0, 3] and row_starts(layout)[1].tolist() == [0, 2, 4]


def test_best_fit_by_hand():
    # 7 fits first and leaves 3: the 3 fits; then 6 leaves 4: nothing fits, the 5 is cut; its rest begins the last row
    layout = best_fit(np.array([7, 3, 6, 5]), 10, buffer=10)
    assert pieces(layout) == [(0, 0, 0, 0, 7), (0, 7, 1, 0, 3), (1, 0, 2, 0, 6), (1, 6, 3, 0, 4), (2, 0, 3, 4, 1)]
    # a document longer than a row fills rows at once, and its rest is cut before a whole document is
    layout = best_fit(np.array([23, 8, 9]), 10, buffer=10)
    assert [piece[1:] for piece in pieces(layout) if piece[4] == 10] == [(0, 0, 0, 10), (0, 0, 10, 10)]
    assert shares(np.array([23, 8, 9]), layout, 10)["cut_tokens"] == 23 and layout.num_rows == 4


def test_a_lead_goes_before_what_continues_a_document():
    sizes = np.array([7, 6])
    layout = best_fit(sizes, 10, buffer=10, lead=1)
    assert pieces(layout) == [(0, 0, 0, 0, 7), (0, 7, 1, 0, 3), (1, 0, 1, 3, 3)]
    flat, begins = documents(sizes)
    assert gather(flat, begins, layout, lead_token=-1).tolist() == [*range(7), 1000, 1001, 1002, -1, 1003, 1004, 1005]
    assert layout.row_sizes().tolist() == [10, 4]


@pytest.mark.parametrize("lead", [0, 1])
@pytest.mark.parametrize("seed", range(4))
def test_best_fit_loses_nothing_and_fills_its_rows(seed, lead):
    sizes, length = draw(seed, 300, (40, 200)[seed % 2]), 64
    layout = best_fit(sizes, length, buffer=32, lead=lead)
    flat, begins = documents(sizes)
    seen = [[] for _ in sizes]
    for row, position, document, offset, size in sorted(pieces(layout), key=lambda piece: piece[2:4]):
        assert offset == sum(seen[document]) and size > 0
        seen[document].append(size)
        assert position + size + (lead if offset else 0) <= length and row < layout.num_rows
    assert [sum(found) for found in seen] == sizes.tolist()
    tokens, filled = gather(flat, begins, layout, -1), layout.row_sizes()
    assert sorted(tokens[tokens >= 0].tolist()) == sorted(flat.tolist()) and filled.sum() == len(tokens)
    # only the row that is open at the end has room, and with a lead a gap too small for one and a token
    assert (filled < length - lead).sum() <= 1 and filled.min() > 0


def slow_best_fit(sizes, length, buffer):
    """The rule in plain words: longest that fits, else cut (a rest before a whole one, the shortest), else wait."""
    waiting, coming, done, rows, row = [], list(enumerate(sizes.tolist())), [], 1, []
    while True:
        while coming and len(waiting) < buffer:
            document, left = coming.pop(0)
            offset = 0
            while left > length:
                done.append((document, offset, length))
                offset, left, rows = offset + length, left - length, rows + 1
            waiting.append((document, offset, left))
        if not waiting:
            return done
        gap = length - sum(size for *_, size in row)
        fits = [piece for piece in waiting if piece[2] <= gap]
        if fits:
            best = min(fits, key=lambda piece: (-piece[2], piece[1] == 0, piece[0], piece[1]))
            waiting.remove(best)
            row.append(best)
        else:
            best = min(waiting, key=lambda piece: (piece[1] == 0, piece[2], piece[0], piece[1]))
            waiting.remove(best)
            row.append((best[0], best[1], gap))
            waiting.append((best[0], best[1] + gap, best[2] - gap))
        done.append(row[-1])
        if sum(size for *_, size in row) == length:
            row = []


@pytest.mark.parametrize(("seed", "longest", "buffer"), [(0, 40, 8), (1, 40, 1), (2, 150, 16), (3, 65, 1000)])
def test_best_fit_is_the_slow_one(seed, longest, buffer):
    sizes = draw(seed, 150, longest)
    found = sorted(piece[2:] for piece in pieces(best_fit(sizes, 64, buffer)))
    assert found == sorted(slow_best_fit(sizes, 64, buffer))


def test_best_fit_cuts_less_than_crop():
    sizes = np.minimum(np.random.default_rng(0).lognormal(5, 1.2, 3000).astype(int) + 1, 20_000)
    lost = {name: shares(sizes, layout, 512)["cut_tokens"] for name, layout in
            (("crop", crop(sizes, 512)), ("best_fit", best_fit(sizes, 512, 1024)))}  # fmt: skip
    must = int(sizes[sizes > 512].sum())
    assert must <= lost["best_fit"] < lost["crop"] and lost["best_fit"] - must < 0.2 * (lost["crop"] - must)


def slow_first_fit_decreasing(sizes, length):
    rows = []
    for document in sorted(range(len(sizes)), key=lambda at: (-sizes[at], at)):
        row = next((row for row in rows if sum(sizes[at] for at in row) + sizes[document] <= length), None)
        if row is None:
            rows.append(row := [])
        row.append(document)
    return rows


@pytest.mark.parametrize("seed", range(4))
def test_first_fit_decreasing_is_the_slow_one(seed):
    sizes = draw(seed, 120, 64)
    layout = first_fit_decreasing(sizes, 64)
    rows = [[] for _ in range(layout.num_rows)]
    for row, position, document, offset, size in pieces(layout):
        assert position == sum(sizes[at] for at in rows[row]) and offset == 0 and size == sizes[document]
        rows[row].append(document)
    assert rows == slow_first_fit_decreasing(sizes, 64)


@pytest.mark.parametrize("pack", [lambda s: crop(s, 8), lambda s: best_fit(s, 8, 4), lambda s: first_fit_decreasing(s, 8)])
def test_nothing_gives_no_rows(pack):
    layout = pack(np.zeros(0, dtype=np.int64))
    assert layout.num_rows == 0 and pieces(layout) == []
    assert gather(np.zeros(0, np.int32), np.zeros(0, np.int64), layout).tolist() == []
