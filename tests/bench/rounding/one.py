"""Takes a model, rows and the name of a way to round it to 4 bits, leaves what that cost and how far the result is from the
original: one JSON line. Every way is a process of its own, with the same rows to calibrate on and others to be judged by."""

from __future__ import annotations

import copy
import json
import sys
import time
from typing import Any

GROUP = 128
ROWS, HELD = 128, 80
"""Rows of 256 tokens: 32,768 to calibrate on, 20,480 held out."""
STEPS = 200
"""Of AutoRound: its own default."""


def main(way: str, path: str, rows: str, group: int) -> None:
    """Print the seconds of CPU, KL and flips of `way`."""
    from raylm.compress.calibration import Calibration
    from raylm.compress.drift import drift
    from raylm.model.load import load_model

    model: Any = load_model(path, "float32", plain=True).eval()
    calibration = Calibration.open(rows, path, model.config, ROWS, HELD)
    judged = copy.deepcopy(model)
    _warm()
    wall, began = time.perf_counter(), time.process_time()
    made = _auto_round(judged, calibration, group) if way == "auto_round" else _card(way, judged, calibration, group)
    spent = {"cpu_s": time.process_time() - began, "wall_s": time.perf_counter() - wall}
    with_bits = {"bits": 4 + 16 / group}
    print(json.dumps({**drift(model, made.float(), calibration.batches(rows=calibration.held)), **spent, **with_bits}))


def _warm() -> None:
    """What is imported when a method first needs it is no part of its time."""
    import compressed_tensors.compressors
    import compressed_tensors.quantization  # noqa: F401
    import torch._dynamo  # noqa: F401
    import transformers.pytorch_utils  # noqa: F401


def _card(kind: str, model: Any, calibration: Any, group: int) -> Any:
    from typing import get_args

    from raylm.compress.methods import Rounding

    cards = {card.model_fields["kind"].default: card for card in get_args(Rounding)}
    cards[kind](group_size=group).apply(model, calibration)
    return model


def _auto_round(model: Any, calibration: Any, group: int) -> Any:
    """The library as it comes, with its defaults but for the number and length of rows."""
    from auto_round import AutoRound

    from raylm.compress.methods.auto_round import equal_rows
    from raylm.model.load import load_tokenizer

    rows, length = equal_rows(calibration)
    asked: dict[str, Any] = {"bits": 4, "group_size": group, "sym": True, "iters": STEPS}
    sizes: dict[str, Any] = {"nsamples": len(rows), "seqlen": length, "batch_size": 8}
    library: Any = AutoRound(model, load_tokenizer(calibration.path), dataset=rows, device_map="cpu", **asked, **sizes)
    return library.quantize()[0]


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
