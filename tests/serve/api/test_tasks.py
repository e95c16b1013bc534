"""Which checkpoints a task is for."""

from __future__ import annotations

import pytest

from raylm.core.errors import ConfigError
from raylm.serve.api.tasks import FITS, ROUTES, SCORES, TEXT, VECTORS, check_fits, engine_options
from raylm.serve.served_model import LoraSettings


@pytest.mark.parametrize(("task", "variant"), [(TEXT, "causal"), (TEXT, ""), (VECTORS, "masked"), (SCORES, "reward")])
def test_what_fits(task, variant):
    check_fits(task, variant, "sft")


@pytest.mark.parametrize(
    ("task", "variant", "remedy"), [(TEXT, "reward", "score"), (SCORES, "causal", "generate"), (VECTORS, "reward", "score")]
)
def test_what_does_not_is_refused_with_the_task_that_does(task, variant, remedy):
    with pytest.raises(ConfigError) as refused:
        check_fits(task, variant, "sft")
    assert f"task = {remedy!r}" in str(refused.value)
    with pytest.raises(ConfigError, match="serve another checkpoint"):
        check_fits(task, "export:gguf", "sft")


def test_engines_are_told_of_their_task():
    assert set(ROUTES) == set(FITS) and engine_options(TEXT) == {}
    assert engine_options(SCORES)["pooler_config"] == {"use_activation": False}
    room = engine_options(TEXT, LoraSettings(most=2, max_rank=8), ["q_proj"])
    assert room["lora_target_modules"] == ["q_proj"] and room["max_loras"] == room["max_cpu_loras"] == 2
