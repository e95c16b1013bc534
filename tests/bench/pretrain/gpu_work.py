"""Takes RAYLM_GPU_* of the environment, leaves the work that both contestants of `gpu_speed` do: a shape, rows, their order.

RAYLM_GPU_SHAPE=tiny is a smoke run; RAYLM_GPU_HIDDEN, _LAYERS, _HEADS, _KV_HEADS, _INTERMEDIATE, _VOCAB, _LENGTH, _BATCH,
_MICRO (rows), _STEPS and _WARM change single numbers of a shape.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from itertools import pairwise
from typing import Any, NamedTuple


class Work(NamedTuple):
    """Numbers of a run; by default a Llama of 0.89 B parameters."""

    hidden: int = 2048
    layers: int = 16
    heads: int = 16
    kv_heads: int = 8
    intermediate: int = 5632
    vocab: int = 32_768
    length: int = 2048
    batch: int = 32
    micro: int = 4
    steps: int = 20
    warm: int = 5


SHAPES = {"1b": Work(), "tiny": Work(64, 2, 4, 2, 192, 512, 64, 8, 4, 12, 4)}
NAME = os.environ.get("RAYLM_GPU_SHAPE", "1b")
if NAME not in SHAPES:
    sys.exit(f"no shape is called {NAME!r}; next: RAYLM_GPU_SHAPE={' or '.join(SHAPES)}")
WORK = SHAPES[NAME]._replace(
    **{name: int(os.environ[key]) for name in Work._fields if (key := f"RAYLM_GPU_{name.upper()}") in os.environ}
)
# steps whose losses are compared: after these, rounding has grown
COMPARED = 5
if WORK.batch % WORK.micro or WORK.steps < max(WORK.warm + 2, COMPARED):
    sys.exit(f"{WORK}; next: a batch that micro divides, steps of {COMPARED} or more and at least two after the warm-up")
# without a warm-up of the learning rate a wide model needs a low one, while losses of the first steps are to tell updates apart
LR = 1e-3 if NAME == "tiny" else 1e-4
BETAS, DECAY, CLIP = (0.9, 0.95), 0.1, 1.0
TOKENS = {"vocab_size": WORK.vocab, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "length": WORK.length}
SHAPE = {
    "kind": "llama",
    "hidden_size": WORK.hidden,
    "num_layers": WORK.layers,
    "num_heads": WORK.heads,
    "num_kv_heads": WORK.kv_heads,
    "intermediate_size": WORK.intermediate,
    "max_length": WORK.length,
    "tie_embeddings": False,
}


def device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def rows() -> Any:
    """int64 [steps x batch, length]: runs of a few thousand fixed phrases, so that there is something to learn."""
    import numpy as np

    draw, num_rows, num_phrases = np.random.default_rng(0), WORK.steps * WORK.batch, -(-WORK.length // 8)
    phrases = draw.integers(3, WORK.vocab, (2000, 8))
    picked = phrases[draw.zipf(1.3, (num_rows, num_phrases)) % 2000]
    return picked.reshape(num_rows, num_phrases * 8)[:, : WORK.length].astype(np.int64)


def order() -> list[list[int]]:
    """Row numbers of each global batch: raylm's order, so that both see the same batches."""
    from raylm.data.order import batch_indices

    return [batch_indices(WORK.steps * WORK.batch, WORK.batch, step, 0) for step in range(WORK.steps)]


class Clock:
    """Told the loss of each step when it is done; waits for the device."""

    def __init__(self) -> None:
        self._ends: list[float] = []
        self._losses: list[float] = []

    def step(self, loss: float) -> None:
        """A step is done, with its update."""
        import torch

        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self._ends.append(time.perf_counter())
        self._losses.append(loss)

    def tell(self) -> None:
        """Print speed of the median step after warm-up, losses, peak memory and device, as the last line."""
        import resource

        import torch

        # from the end of a step to that of the next: all that a loop does beside its steps is in it
        step_s = [end - start for start, end in pairwise(self._ends)][WORK.warm - 1 :]
        on_gpu = torch.cuda.is_available()
        peak = torch.cuda.max_memory_allocated() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(
            json.dumps(
                {
                    "tokens_per_s": WORK.batch * WORK.length / statistics.median(step_s),
                    "losses": self._losses,
                    "memory_gb": peak / 1e9,
                    "device": torch.cuda.get_device_name() if on_gpu else "cpu",
                }
            )
        )
