"""`raylm find-lr`: a learning rate range test with a train stage's own model, rows and batch.

The learning-rate range test (https://arxiv.org/abs/1506.01186): the loss falls fastest a little below the rate that is too
large. Nothing of the stage's artifact is touched; curve and figures lie in a folder of their own.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from raylm.core.config import resolve
from raylm.core.context import Context
from raylm.core.errors import ConfigError, TrainingError
from raylm.core.storage import Folder
from raylm.parallel.group.driver import hold_ranks
from raylm.train.config import Train
from raylm.train.stage import prepared

if TYPE_CHECKING:
    from raylm.parallel.group.ranks import Ranks
    from raylm.parallel.optimizers.schedule import Scheduled
    from raylm.trainer.setup import Setup

PICTURE = "find_lr.png"
DIVERGED = 4.0
"""The test ends when the loss is this many times its minimum."""
FEWEST = 10
COLUMNS, LINES = 64, 12


class Found(NamedTuple):
    """What a curve suggests. `steepest` is where the loss falls fastest per factor of the rate; `tenth` is a tenth of where
    it is lowest."""

    steepest: float
    tenth: float


def find(cfg: Train, ctx: Context, steps: int, lowest: float, highest: float) -> Found:
    """Run the test on the stage's workers; rows lie in `ctx.out`'s metrics.jsonl, the curve in find_lr.png.

    Raises:
        ConfigError: the range is empty or the steps are too few.
        TrainingError: the loss was not finite before there was a curve.
    """
    if not 0 < lowest < highest or steps < FEWEST:
        raise ConfigError(f"--from {lowest} --to {highest} --steps {steps}: a growing range and {FEWEST} steps are needed")
    # a few steps are not worth a pass over all rows
    cfg, setup, _ = prepared(cfg.model_copy(update={"reference": "live"}), ctx)
    # spikes, saving and measuring of held-out rows would disturb the curve; the length of the ramp is the run's
    cfg = cfg.model_copy(update={"spikes": None, "held_out_rows": 0, "ema": None})
    setup = setup.model_copy(update={"steps": steps})
    group = hold_ranks(ctx.workers, cfg.workers, cfg.sizes())
    with ctx.progress(steps, "steps") as bar:

        def on_row(kind: str, values: Any) -> None:
            if kind == "row":
                ctx.log(**values)
                bar.to(values["step"] + 1, loss=values["loss"], lr=values["lr"])
            else:
                ctx.rewind([])

        group.call(ramp, cfg, setup, lowest, highest, on_row=on_row, aside=ctx.out)
    ctx.flush()
    ctx.work.remove()
    rows = [row for row in ctx.metric_rows if math.isfinite(row["loss"])]
    if len(rows) < FEWEST:
        raise TrainingError(f"the loss was not finite after {len(rows)} steps", where=ctx.out.uri, next="begin lower: --from")
    rates, losses = [row["lr"] for row in rows], [row["loss"] for row in rows]
    found = suggest(rates, losses)
    _draw(ctx.out, rates, losses, found)
    return found


def ramp(ranks: Ranks, cfg: Train, setup: Setup, lowest: float, highest: float) -> dict[str, Any]:
    """The task of each rank: steps of the stage itself, until the last or until the loss has left its range."""
    from raylm.train.learner import made_loop

    cfg = cfg.model_copy(update={"optimizer": growing(resolve(cfg.optimizer), lowest, highest)})
    loop = made_loop(ranks, cfg, setup).loop
    # a group that lost a rank begins anew
    ranks.rewind(0)
    least = math.inf
    for step in range(setup.steps):
        values = loop.step(step)
        # ranks that share rows may differ in the last digit, and must end together
        loss = values["loss"] if values and values["finite"] else math.inf
        (loss,) = loop.engine.most([loss if math.isfinite(loss) else math.inf])
        if values:
            ranks.log(step, loss=loss, lr=values["lr"], grad_norm=values["grad_norm"])
        least = min(least, loss)
        if loss > DIVERGED * least or not math.isfinite(loss):
            break
    loop.saver.close()
    return {}


def growing(card: Scheduled, lowest: float, highest: float) -> Scheduled:
    """The optimizer `card` with a rate that grows by the same factor each step, from `lowest` to `highest`."""

    class Growing(type(card)):
        def lr_at(self, step: int, steps: int) -> float:
            return lowest * (highest / lowest) ** (step / max(steps - 1, 1))

    return Growing.model_construct(**dict(card))


def suggest(rates: Sequence[float], losses: Sequence[float]) -> Found:
    """Read a curve: rates ascending, one loss each. Losses are smoothed by a moving mean over a tenth of the curve."""
    reach = max(len(losses) // 20, 1)
    smooth = [_mean(losses[max(0, at - reach) : at + reach + 1]) for at in range(len(losses))]
    lowest = min(range(len(smooth)), key=smooth.__getitem__)
    if lowest < 2:
        return Found(rates[0] / 10, rates[0] / 10)
    logs = [math.log(rate) for rate in rates]
    # over two neighbours: a single noisy step must not win
    slopes = {at: (smooth[at + 1] - smooth[at - 1]) / (logs[at + 1] - logs[at - 1]) for at in range(1, lowest)}
    return Found(rates[min(slopes, key=slopes.__getitem__)], rates[lowest] / 10)


def plot(rates: Sequence[float], losses: Sequence[float], found: Found) -> list[str]:
    """The curve as lines of text; `|` stands at the steepest place."""
    low = min(losses)
    # what has diverged would press the rest flat
    high = min(max(losses), max(losses[0], low) + 0.25 * (losses[0] - low + 1e-9))
    span, width = max(high - low, 1e-9), math.log(rates[-1] / rates[0])
    grid = [[" "] * COLUMNS for _ in range(LINES)]

    def column(rate: float) -> int:
        return min(max(round(math.log(rate / rates[0]) / width * (COLUMNS - 1)), 0), COLUMNS - 1)

    for line in grid:
        line[column(found.steepest)] = "|"
    for rate, loss in zip(rates, losses, strict=True):
        grid[round((high - min(loss, high)) / span * (LINES - 1))][column(rate)] = "*"
    heads = [f"{high:9.4g} ", *[" " * 10] * (LINES - 2), f"{low:9.4g} "]
    under = f"{rates[0]:.1e}".ljust(COLUMNS - 7) + f"{rates[-1]:.1e}"
    return [*(head + "".join(line).rstrip() for head, line in zip(heads, grid, strict=True)), " " * 10 + under]


def _draw(out: Folder, rates: Sequence[float], losses: Sequence[float], found: Found) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(rates, losses, linewidth=1)
    for rate, said in ((found.steepest, "steepest"), (found.tenth, "lowest / 10")):
        axes.axvline(
            rate, linewidth=0.8, color="tab:red", linestyle="-" if said == "steepest" else ":", label=f"{said}: {rate:.2e}"
        )
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("loss")
    axes.set_ylim(min(losses) - 0.05 * abs(min(losses)), max(losses[0], min(losses)) * 1.3)
    axes.legend()
    held = io.BytesIO()
    figure.savefig(held, format="png", dpi=110)
    out.write(PICTURE, held.getvalue())


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def report(stage: str, rows: Sequence[dict[str, Any]], found: Found, say: Callable[[str], None] = print) -> None:
    """Print the curve, both suggestions and the line for the job file."""
    finite = [row for row in rows if math.isfinite(row["loss"])]
    for line in plot([row["lr"] for row in finite], [row["loss"] for row in finite], found):
        say(line)
    say(f"loss falls fastest at {found.steepest:.2e}; a tenth of where it is lowest is {found.tenth:.2e}")
    say(f"[stages.{stage}]\noptimizer.lr = {min(found):.1e}")
