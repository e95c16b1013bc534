"""llama.cpp's server on tiny files that are written here: it says what transformers says, and faults are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("xllamacpp", reason="xllamacpp is not installed: pip install 'raylm[export]'")

from raylm.compress.consumers.consumer import Prompt
from raylm.compress.consumers.parity import Asked, Parity, prove
from raylm.compress.consumers.xllamacpp import Xllamacpp, _places
from raylm.model.gguf.write import write_gguf
from tests.model.gguf.small import small

PROMPTS: list[Prompt] = [
    [{"role": "user", "content": "It's 12345 o'clock."}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "def f(x):\n    return x\n\n"}],
    "two  spaces, na\u00efve caf\u00e9 \u65e5\u672c \U0001f44d\U0001f3fd 1,000",
    "<|user|>I'LL say 2024<|end|>",
]


def proof(folder: Path, source: Path, noise: float = 1e-3) -> Parity:
    asked = Asked("gguf", exact=True, noise=noise, most_kl=1e-3, max_tokens=8)
    return prove(asked, folder, str(source), PROMPTS, consumers=[Xllamacpp()], say=lambda line: None)


def written(at: Path, kind: str, dtype: str, **changes: Any) -> Path:
    write_gguf(small(kind), at / "model.gguf", dtype, changes=changes)
    return at


@pytest.mark.parametrize(("kind", "dtype"), [("llama", "f32"), ("qwen3", "f16"), ("gpt2", "f32")])
def test_it_reads_what_was_written_as_the_same_model(tmp_path, kind, dtype):
    noise = {"f32": 1e-3, "f16": 2e-2}[dtype]
    parity = proof(written(tmp_path, kind, dtype), small(kind), noise)
    (found,) = parity.verdicts
    assert not parity.wrong(), parity.lines()
    assert found.ids_equal == 4 and found.tells_ids and found.tokens_equal + found.near_ties == 4
    assert found.positions > 20 and found.kl is not None and found.kl < 1e-4


def test_positions_are_told_from_the_tokens():
    # the server leaves out the step of 5, which ends within a character
    assert _places([4, 4, 5, 6], [4, 4, 6]) == [0, 1, 3]
    # which of the two 4 it left out cannot be known
    assert _places([4, 4, 5], [4, 5]) == [-1, 2]
