"""Curves with a known best rate and a tiny stage: what the range test suggests, leaves alone and writes."""

from __future__ import annotations

import math

import pytest

from raylm.cli import main
from raylm.core.artifact import Tokens
from raylm.core.errors import ConfigError
from raylm.core.metrics import read_metrics
from raylm.parallel.optimizers.adamw import AdamW
from raylm.parallel.optimizers.muon import Muon
from raylm.train.config import Train
from raylm.train.find_lr import PICTURE, find, growing, plot, report, suggest
from tests.rows import counting_rows, make_rows
from tests.stages import context
from tests.test_job import write

SHAPE = {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "max_length": 32}
RATES = [1e-6 * 10 ** (6 * at / 99) for at in range(100)]


def curve(rate: float, noise: float = 0.0) -> float:
    """Falls from 5 to 2, fastest at 1e-3, and leaves for the sky at 1e-1."""
    x = math.log10(rate)
    return 2 + 3 / (1 + math.exp(4 * (x + 3))) + math.exp(8 * (x + 1)) + noise * math.sin(37 * x)


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_the_steepest_place_and_a_tenth_of_the_lowest(noise):
    found = suggest(RATES, [curve(rate, noise) for rate in RATES])
    assert 4e-4 < found.steepest < 2.5e-3
    # d/dx: 12 e^{-4(x+3)} = 8 e^{8(x+1)} at x = -1.63
    assert found.tenth == pytest.approx(10**-2.63, rel=0.5)


def test_a_curve_that_only_rises_asks_for_less():
    assert suggest(RATES, [1 + at for at in range(100)]).steepest == pytest.approx(1e-7)


def test_the_plot_falls_and_marks_the_steepest_place():
    losses = [curve(rate) for rate in RATES]
    lines = plot(RATES, losses, suggest(RATES, losses))
    marks = [line.index("|") for line in lines if "|" in line]
    assert len(set(marks)) == 1
    assert 10 + 28 < marks[0] < 10 + 36
    assert "*" in lines[0]
    assert lines[-1].split() == ["1.0e-06", "1.0e+00"]


def test_the_rate_grows_by_one_factor_and_the_rest_of_the_card_stays():
    card = growing(Muon(momentum=0.9, clip=0.5), 1e-4, 1e-1)
    assert [card.lr_at(step, 4) for step in range(4)] == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1])
    assert (card.momentum, card.clip, card.kind) == (0.9, 0.5, "muon")
    assert isinstance(growing(AdamW(), 1e-4, 1), AdamW)


def test_what_is_no_train_stage_or_no_range_is_refused(tmp_path, capsys):
    assert main(["find-lr", str(write(tmp_path)), "tokens"]) == 1
    assert "no train stage" in capsys.readouterr().err
    cfg = Train(stage="train", rows="tokens", model=SHAPE, batch=2, steps=2)
    with pytest.raises(ConfigError, match="growing range"):
        find(cfg, context(tmp_path, "base.find_lr"), steps=20, lowest=1.0, highest=0.1)


@pytest.mark.ray
def test_a_stage_is_tried_and_its_artifact_left_alone(tmp_path, workers, capsys):
    make_rows(tmp_path, "tokens", Tokens, counting_rows(40), length=16, held_out_tokens=64, held_out_bytes=128)
    cfg = Train(
        stage="train", rows="tokens", model=SHAPE, batch=4, micro_batch=2, steps=2, save_every=1, spikes={}, ema=0.9,
        workers={"count": 2},
    )  # fmt: skip
    ctx = context(tmp_path, "base.find_lr", cfg, workers)
    found = find(cfg, ctx, steps=30, lowest=1e-5, highest=100.0)
    rows = read_metrics(ctx.out)
    assert [row["step"] for row in rows] == list(range(len(rows)))
    assert rows[1]["lr"] / rows[0]["lr"] == pytest.approx(1e7 ** (1 / 29))
    # a model of random weights knows nothing; a rate of 100 ends the test early
    assert min(row["loss"] for row in rows) < rows[0]["loss"] - 0.1
    assert 1e-5 < found.steepest < 1
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("base")) == ["base.find_lr"]
    assert ctx.out.files() == sorted([PICTURE, "metrics.jsonl"])
    report("base", rows, found)
    assert f"optimizer.lr = {min(found):.1e}" in capsys.readouterr().out
