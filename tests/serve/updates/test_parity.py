"""Answers of an endpoint and of transformers: which differences are near-ties and which are another model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from raylm.core.errors import StageError
from raylm.serve.engine.app import with_ends
from raylm.serve.updates import reference
from raylm.serve.updates.parity import Verdict, refuse_unequal
from raylm.serve.updates.reference import Continued
from tests.model.tiny import tiny_checkpoint

EXPECTED = Continued([5, 7, 2], [{5: -0.1, 6: -2.5}, {7: -0.7, 8: -0.9, 9: -4.0}, {2: -0.2, 3: -3.0}])


@pytest.mark.parametrize(
    ("tokens", "nats"),
    [
        ([5, 7, 2], 0.0),
        ([5, 7], 0.0),
        ([5, 8, 3], 0.2),  # what follows the first difference is not compared
        ([5, 9, 2], 3.3),
        ([6, 7, 2], 2.4),
        ([99, 7, 2], 2.4),  # not among the likeliest: as far as the last of them
    ],
)
def test_how_far_an_answer_is_from_the_likeliest(tokens, nats):
    assert EXPECTED.nats_short(tokens) == pytest.approx(nats)


def verdict(equal: str, nats: float, template: str = "8/8") -> Verdict:
    return Verdict(True, template, equal, "answer to 'x'", nats)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_near_ties_pass_where_the_last_bit_decides(dtype):
    refuse_unequal(verdict("6/8", 0.3), dtype, quantized=True, where="here")
    with pytest.raises(StageError, match=r"3\.0 nats less likely"):
        refuse_unequal(verdict("7/8", 3.0), dtype, quantized=True, where="here")


def test_float32_is_exact():
    refuse_unequal(verdict("8/8", 0.0), "float32", quantized=False, where="here")
    refuse_unequal(verdict("not compared: larger than compare_up_to_gb", 0.0), "float32", quantized=False, where="here")
    with pytest.raises(StageError, match="in float32 differ"):
        refuse_unequal(verdict("7/8", 0.01), "float32", quantized=False, where="here")
    with pytest.raises(StageError, match="does not see the prompt"):
        refuse_unequal(verdict("8/8", 0.0, template="7/8"), "bfloat16", quantized=False, where="here")


def test_log_probabilities_are_compared_as_far_as_the_answers_agree():
    assert EXPECTED.apart([5, 7, 2], [-0.1, -0.8, -0.2]) == pytest.approx([0.0, 0.1, 0.0])
    assert EXPECTED.apart([5, 8, 2], [-0.2, -0.8, -0.2]) == pytest.approx([0.1])
    exact = verdict("8/8", 0.0)
    refuse_unequal(exact._replace(nats=5e-5), "float32", quantized=False, where="here")
    refuse_unequal(exact._replace(nats=1e-2), "bfloat16", quantized=False, where="here")
    # rounded activations are rounded otherwise by other kernels
    refuse_unequal(exact._replace(nats=0.2), "bfloat16", quantized=True, where="here")
    for nats, dtype in ((1e-3, "float32"), (3e-2, "bfloat16"), (float("nan"), "float32")):
        with pytest.raises(StageError, match="log-probabilities differ"):
            refuse_unequal(exact._replace(nats=nats), dtype, quantized=False, where="here")


def test_the_reference_is_computed_in_the_engines_format(tmp_path):
    """Greedy tokens are the likeliest of their places, in float32 and in bfloat16; other weights are nats away."""
    folder, other = (str(tiny_checkpoint(tmp_path / name, seed=seed)) for name, seed in (("one", 0), ("other", 1)))
    texts = ["What is a list?", "x"]
    for dtype in ("float32", "bfloat16"):
        for probe in reference.expected(folder, texts, dtype, greedy=True):
            assert probe.greedy is not None
            assert probe.greedy.tokens == [max(likely, key=lambda token: likely[token]) for likely in probe.greedy.likely]
            wrong = next(e for e in reference.expected(other, [probe.text], dtype, greedy=True) if e.greedy)
            assert probe.greedy.nats_short(wrong.greedy.tokens) > 0.2


def test_an_engine_ends_where_the_template_ends_a_turn(tmp_path):
    """A checkpoint from elsewhere whose generation config names another token only: engine and reference end at both."""
    folder = tiny_checkpoint(tmp_path)
    assert with_ends(str(folder)) == with_ends("org/model") == "auto"
    (folder / "generation_config.json").write_text('{"eos_token_id": 5, "top_p": 0.9}')
    made = json.loads((Path(with_ends(str(folder))) / "generation_config.json").read_text())
    assert made == {"eos_token_id": [2, 5], "top_p": 0.9}
    assert with_ends(str(folder)) == with_ends(str(folder))  # a second start leaves no second folder
