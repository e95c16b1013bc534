"""A job whose three sources count by different steps: what a model learns of each is what it is given of it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from raylm.cli import _parser
from raylm.core import toml
from raylm.core.artifact import Tokens
from raylm.mixture.tune import Tune, _same
from tests.rows import make_rows

SIZES = {"a": (3, 400), "b": (7, 80), "c": (11, 40)}
STAGE = """
[stages.base]
stage = "train"
rows = {kind = "mixture", parts = [{rows = "a"}, {rows = "b"}, {rows = "c"}]}
model = {hidden_size = 32, num_layers = 1, num_heads = 2, max_length = 32}
batch = 8
micro_batch = 8
steps = 40
optimizer = {lr = 5e-3, warmup = 0.05}
"""


def make_job(at: Path) -> Path:
    """The job file; its sources are made, 400, 80 and 40 rows."""
    rng = np.random.default_rng(0)
    text = f'name = "j"\nroot = "{at / "runs"}"\n[stages.docs]\nstage = "prepare"\nsource = {{kind = "text", glob = "*.txt"}}\n'
    for name, (step, count) in SIZES.items():
        rows = [
            {"tokens": [6 + (int(first) + step * place) % 294 for place in range(32)]} for first in rng.integers(0, 294, count)
        ]
        make_rows(at / "runs" / "j", name, Tokens, rows, held_out=8, length=32, held_out_tokens=256)
        text += f'[stages.{name}]\nstage = "tokenize"\ndocuments = "docs"\ntokenizer = {{kind = "bpe", vocab_size = 300}}\n'
        text += 'form = {kind = "text", length = 32}\n'
    (at / "job.toml").write_text(text + STAGE)
    return at / "job.toml"


def asked(job: Path, *words: str) -> argparse.Namespace:
    usual = ["--proxies", "10", "--steps", "40", "--rows", "8", "--max-epochs", "20", "--processes", "1"]
    return _parser().parse_args(["tune-mixture", str(job), "base", *usual, *words])


def tuning(arguments: Any) -> Tune:
    """The tuning, as `raylm tune-mixture` begins it behind the making of its inputs."""
    data, source = toml.read(arguments.job)
    made = Tune(toml.override(data, arguments.set), source, arguments)
    _same(made, arguments.anew)
    return made
