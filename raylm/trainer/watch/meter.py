"""Measures the phases of a rank's steps: seconds, memory, utilisation, losses by part of a mixture."""

from __future__ import annotations

import resource
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raylm.data.batch import Batch
    from raylm.model.scores import Inputs, Scores
    from raylm.parallel.engine import Engine


class Meter:
    """Reads clock and memory of one rank.

    Args:
        flops_per_token: forward and backward of the model; None where it is not known.
        peak: FLOP/s of all ranks together; None where it is not known.
    """

    def __init__(self, engine: Engine, flops_per_token: float | None = None, peak: float | None = None) -> None:
        self._engine, self._flops, self._peak = engine, flops_per_token, peak
        self._started = self._read = self._met = self._forward = self._ran = 0.0

    def start(self) -> None:
        """A step begins."""
        self._started = self._read = self._met = self._forward = time.perf_counter()

    def read(self) -> None:
        """Its rows are there."""
        self._read, self._ran = time.perf_counter(), time.thread_time()

    def meet(self) -> None:
        """The ranks have met to count the batch, and the first forward pass begins."""
        self._met = self._forward = time.perf_counter()

    def forward(self) -> None:
        """The first forward pass is done: since `meet` a rank has hardly waited for another."""
        if self._forward == self._met:
            self._forward = time.perf_counter()

    def values(self, tokens: float, weight: float, unit: str) -> dict[str, float]:
        """What the step cost, the same on all ranks where they are asked. Every rank must call."""
        wait, world = self._read - self._started, self._engine.world
        # on a CPU the thread of a step stands still in nothing but exchanges; what a GPU exchanges its profile tells
        stood = time.perf_counter() - self._read - (time.thread_time() - self._ran)
        own = wait + self._forward - self._met
        # the rank travels in the last digits of its microseconds; of a pipeline only the last stage's ranks see a loss
        slow, fast = (own_us(own) * world + self._engine.rank, -own) if self._forward > self._met else (-1, float("-inf"))
        data_wait, slowest, shortest, memory, least_stood = self._engine.most([wait, slow, fast, self._memory(), -stood])
        # after the exchange, which waits for the device and for the slowest rank
        step_s = time.perf_counter() - self._started
        found = {
            "step_s": step_s,
            "tokens_per_s": tokens / step_s,
            f"{unit}_per_s": weight / step_s,
            "data_wait_s": data_wait,
            "memory_gb": memory / 1e9,
        }
        # where no rank saw a forward pass of this model (a critic that learns alone) none is slower than another
        if world > 1 and slowest >= 0:
            longest_us, rank = divmod(int(slowest), world)
            found |= {"straggler": longest_us / own_us(-shortest), "slowest_rank": rank}
            if self._engine.device.type == "cpu":
                # of the rank that waited least: what others stood longer, they waited for it
                found["communication_s"] = max(0.0, -least_stood)
        if self._flops and self._peak:
            found["mfu"] = self._flops * tokens / step_s / self._peak
        return found

    def _memory(self) -> float:
        """Peak bytes so far: of the GPU's allocator, or of the process."""
        import torch

        if self._engine.device.type == "cuda":
            return float(torch.cuda.max_memory_allocated(self._engine.device))
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


def own_us(seconds: float) -> int:
    """Whole microseconds, at least one; times 100,000 ranks they are exact in float64 for a day."""
    return max(1, round(seconds * 1e6))


class Domains:
    """Losses of the parts of a mixture.

    Args:
        names: of the parts; those that share one are told apart by their place, from 1.
        rows: the mixture, which knows the part of each row.
    """

    def __init__(self, names: list[str], rows: Any) -> None:
        self._names = [name if names.count(name) == 1 else f"{name}#{at}" for at, name in enumerate(names, start=1)]
        self._rows = rows

    def sums(self, scores: Scores, inputs: Inputs, batch: Batch) -> dict[str, Any]:
        """Sum of -log p and of weights by part, of one micro batch: metrics that add up over micro batches and ranks."""
        import torch

        # rows that only fill up come last and weigh nothing
        parts = [self._rows.place(row)[0] for row in batch.rows] + [0] * (len(batch.row_weight_P) - len(batch.rows))
        place = torch.tensor(parts, device=scores.logprob_BT.device)
        with torch.no_grad():
            both = torch.stack([-batch.sums(scores.logprob_BT * inputs.weight_BT), batch.sums(inputs.weight_BT)])
            summed = torch.zeros(2, len(self._names), device=both.device).index_add_(1, place, both.float())
        found = {}
        for at, name in enumerate(self._names):
            found |= {f"loss/{name}": summed[0, at], f"weight/{name}": summed[1, at]}
        return found

    def means(self, sums: dict[str, float]) -> dict[str, float]:
        """`loss/NAME` of the parts that had tokens in this batch; the sums are taken out of `sums`."""
        found = {}
        for name in self._names:
            total, weight = sums.pop(f"loss/{name}", 0.0), sums.pop(f"weight/{name}", 0.0)
            if weight:
                found[f"loss/{name}"] = total / weight
        return found
