"""A judge in an engine of our own: what it is asked, what it says, and what it refuses."""

from __future__ import annotations

import pytest
import torch

from raylm.rl.rewards.engine_judge import EngineJudge
from raylm.rl.rewards.role_worker import Where
from raylm.rl.types import Prompt, Trajectory, Unscored
from tests.model.tiny import tiny_checkpoint
from tests.rl.samples import config

ASKED = [{"role": "user", "content": "Which?"}]
PROMPT = Prompt(0, [1], '[{"role": "user", "content": "Which?"}]', None)


def test_its_role_and_its_model_stand_in_the_stage():
    from raylm.core.config import references

    card = {"kind": "engine_judge", "model": "judge", "count": 2, "gpus": 1.0}
    cfg = config(rewards=[card])
    assert (cfg.roles()["reward_engine_judge"].count, cfg.roles()["reward_engine_judge"].gpus) == (2, 1.0)
    (found,) = [one for one in references(cfg) if one.value == "judge"]
    assert found.kinds == ("Checkpoint",) and found.path == ("rewards", "0", "model")


@pytest.mark.vllm
@pytest.mark.long
def test_it_says_what_transformers_says(tmp_path):
    """The engine and its loop are in this process; a random model says nothing that is a score."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    at = str(tiny_checkpoint(tmp_path, vocab=300, layers=1))
    card = EngineJudge(model="judge", max_tokens=12, max_len=512, dtype="float32", rubric="Good?", tries=1)
    engine = card.scorer(Where(at, at))
    reply = engine._wait(engine.ask(ASKED, 0.0))
    coder, model = AutoTokenizer.from_pretrained(at), AutoModelForCausalLM.from_pretrained(at)
    tokens = coder.apply_chat_template(ASKED, add_generation_prompt=True, return_dict=False)
    with torch.no_grad():
        out = model.generate(torch.tensor([tokens]), max_new_tokens=12, do_sample=False)[0, len(tokens) :]
    assert reply.text == coder.decode(out, skip_special_tokens=True) and reply.text
    drawn, ask, asked = [Trajectory([5], [], text, "stop") for text in ("a", "x" * 4000, "a")], engine.ask, []
    engine.ask = lambda *request: asked.append(request) or ask(*request)
    found = engine.score(PROMPT, drawn)
    assert [one.kind for one in found if isinstance(one, Unscored)] == ["unparsable", "refused", "unparsable"]
    assert len(asked) == 2, "of the same answer it says the same"
