"""An rl stage as a job says it, and a sync between GPUs in the process of the test."""

from __future__ import annotations

from typing import Any

STAGE: dict[str, Any] = {
    "stage": "rl",
    "prompts": "prompts",
    "model": "model",
    "iterations": 1,
    "rewards": [{"kind": "pattern", "pattern": "a"}],
}


def synced_greedily(workers: Any, tmp_path: Any, kind: str, gpus: float) -> None:
    """Three syncs of other weights, the first by buckets: greedy tokens are transformers' after each."""
    from raylm.inference.completions import Sampling
    from raylm.inference.config import GeneratorSpec
    from raylm.inference.pool import hold_pool
    from tests.inference.test_generator import PROMPTS, greedy_by_transformers, perturbed
    from tests.model.tiny import tiny_checkpoint

    spec = GeneratorSpec(gpus=gpus, sync={"kind": kind})  # type: ignore[arg-type]
    pool, sender = hold_pool(workers, spec), spec.sync.sender()
    pool.start(str(tiny_checkpoint(tmp_path)), 128, dtype="float32")
    for version in (1, 2, 3):
        model, state = perturbed(seed=version)
        sent = []

        def send(actors, number, state=state, sent=sent):
            sent.append(sender.send(state.items(), actors, number, 120.0))
            return sent[0]

        pool.sync(send, version)
        found = pool.generate(PROMPTS, Sampling(max_tokens=16, temperature=0, stop_at_eos=False))
        assert [row[0].tokens for row in found] == [greedy_by_transformers(model, prompt, 16) for prompt in PROMPTS]
        assert sent[0].lost == {} and found[0][0].versions[-1].version == version
    workers.release("generator")
