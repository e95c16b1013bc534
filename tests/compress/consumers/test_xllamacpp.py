"""llama.cpp's server on tiny files that are written here: it says what transformers says, and planted faults are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("xllamacpp", reason="xllamacpp is not installed: pip install 'raylm[export]'")

from raylm.compress.consumers.parity import Asked, Parity, prove
from raylm.compress.consumers.xllamacpp import Xllamacpp, _places
from raylm.model.gguf.rounded import rounded_copy
from raylm.model.gguf.write import write_gguf
from tests.compress.consumers.planted import PROMPTS, reference
from tests.model.gguf.small import small

NOISE = {"f32": 1e-3, "f16": 2e-2}


def proof(at: Path, kind: str, dtype: str, **changes: Any) -> Parity:
    write_gguf(small(kind), at / "model.gguf", dtype, changes=changes)
    return proof_of(at, kind, NOISE[dtype])


def proof_of(at: Path, kind: str, noise: float) -> Parity:
    asked = Asked("gguf", exact=True, noise=noise, most_kl=1e-3, max_tokens=8)
    said = reference(kind)
    return prove(asked, at, str(small(kind)), PROMPTS, consumers=[Xllamacpp()], reference=said, say=lambda line: None)


@pytest.mark.parametrize(("kind", "dtype"), [("llama", "f32"), ("qwen3", "f16"), ("gpt2", "f32")])
def test_it_reads_what_was_written_as_the_same_model(tmp_path, kind, dtype):
    parity = proof(tmp_path, kind, dtype)
    (found,) = parity.verdicts
    assert not parity.wrong(), parity.lines()
    assert found.ids_equal == 4 and found.tells_ids and found.tokens_equal + found.near_ties == 4
    assert found.positions > 20 and found.kl is not None and found.kl < 1e-4


def test_a_wrong_pre_tokenizer_is_told_by_the_first_prompt_token_that_differs(tmp_path):
    (wrong,) = proof(tmp_path, "qwen3", "f32", **{"tokenizer.ggml.pre": "gpt-2"}).wrong()
    assert "xllamacpp" in wrong and "cuts" in wrong and "prompt token" in wrong and "transformers makes" in wrong


def test_a_wrong_template_is_told_by_the_first_prompt_token_that_differs(tmp_path):
    template = "{{ bos_token }}{% for message in messages %}<|user|>{{ message['content'] }}{% endfor %}<|assistant|>"
    parity = proof(tmp_path, "llama", "f32", **{"tokenizer.chat_template": template})
    (wrong,) = parity.wrong()
    assert "cuts 2 of 4 prompts otherwise; conversation \"It's 12345 o'clock.\": prompt token" in wrong
    assert parity.verdicts[0].ids_equal == 2


def test_missing_permutation_is_told_by_the_first_answer_token_that_differs(tmp_path):
    import gguf

    write_gguf(small("llama"), tmp_path / "model.gguf", "f32")
    read = gguf.GGUFReader(tmp_path / "model.gguf", "r+")
    queries: Any
    (queries,) = (tensor.data for tensor in read.tensors if tensor.name == "blk.0.attn_q.weight")
    # pairs of neighbours back to halves: as they lie in the checkpoint
    queries[:] = queries.reshape(4, 8, 2, -1).swapaxes(1, 2).reshape(queries.shape).copy()
    queries.flush()
    del read, queries
    parity = proof_of(tmp_path, "llama", 1e-3)
    (wrong,) = parity.wrong()
    assert parity.verdicts[0].ids_equal == 4
    assert "answers" in wrong and "answer token" in wrong and "transformers says" in wrong


def test_what_four_bits_do_not_explain_is_told(tmp_path):
    """A rounded file is held against the same rounded weights: rows of a matrix that lie wrong are far less than what rounding
    may do to some model, and no rounding."""
    import gguf

    asked = Asked("gguf", exact=False, noise=0.2, most_kl=2.0, max_tokens=8)
    rounded = rounded_copy(small("llama"), "q4_0", tmp_path / "rounded")
    write_gguf(small("llama"), tmp_path / "model.gguf", "q4_0")

    def proved() -> Parity:
        given = {"consumers": [Xllamacpp()], "reference": reference("llama"), "rounded": rounded}
        return prove(asked, tmp_path, str(small("llama")), PROMPTS, say=lambda line: None, **given)

    sound = proved()
    assert not sound.wrong()
    assert sound.verdicts[0].rounded_kl < 1e-3 < sound.verdicts[0].kl
    read = gguf.GGUFReader(tmp_path / "model.gguf", "r+")
    queries: Any
    (queries,) = (tensor.data for tensor in read.tensors if tensor.name == "blk.0.attn_q.weight")
    queries[:] = queries.reshape(4, 8, 2, -1).swapaxes(1, 2).reshape(queries.shape).copy()
    queries.flush()
    del read, queries
    broken = proved()
    (wrong,) = broken.wrong()
    assert broken.verdicts[0].kl < asked.most_kl and "from transformers with the same rounded weights" in wrong


def test_positions_are_told_from_the_tokens():
    # the server leaves out the step of 5, which ends within a character
    assert _places([4, 4, 5, 6], [4, 4, 6]) == [0, 1, 3]
    # which of the two 4 it left out cannot be known
    assert _places([4, 4, 5], [4, 5]) == [-1, 2]
