"""Takes hidden states and an output matrix, leaves peak memory and seconds of the loss with its gradients: raylm's head against
torch's linear and cross-entropy, vocabularies of 50k and 150k, each way in a process of its own, alternating."""

from __future__ import annotations

import json
import statistics
import sys
import time
from types import SimpleNamespace

from tests.bench.near_copies.peers import timed

TOKENS, HIDDEN, VOCABS, ROUNDS = 2048, 256, (50_304, 151_936), 2


def one(who: str, vocab: int) -> None:
    """Print peak growth of the process in bytes, seconds, loss and the norm of both gradients."""
    import resource

    import torch

    from raylm.model.head import Asks, Question, head_of

    torch.manual_seed(0)
    model = torch.nn.Module()
    head = torch.nn.Linear(HIDDEN, vocab, bias=False)
    hidden = torch.randn(1, TOKENS, HIDDEN, requires_grad=True)
    target = torch.randint(0, vocab, (1, TOKENS))
    weight = torch.ones(1, TOKENS)
    head.weight.grad = torch.zeros_like(head.weight)  # both ways have to hold it; it is no cost of the loss
    hidden.grad = torch.zeros_like(hidden)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    if who == "theirs":
        loss = torch.nn.functional.cross_entropy(head(hidden)[0], target[0], reduction="sum")
    else:
        config = SimpleNamespace(vocab_size=vocab, get_text_config=lambda decoder: config)
        model.config, model.get_output_embeddings = config, lambda: head  # type: ignore[assignment]
        asked = head_of(model)
        asked.asked = Question(Asks(linear=True), target, weight, "chunked")
        loss = -(asked(hidden)[..., 0] * weight).sum()
    loss.backward()
    spent = time.perf_counter() - started
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    norms = [float(hidden.grad.norm()), float(head.weight.grad.norm())]
    print(json.dumps({"bytes": grown, "seconds": spent, "loss": float(loss.detach()), "norms": norms}))


def main() -> None:
    found: dict[tuple[str, int], list[dict]] = {}
    for _ in range(ROUNDS):
        for vocab in VOCABS:
            for who in ("ours", "theirs"):
                _, printed = timed([sys.executable, "-m", "tests.bench.loss_memory", who, str(vocab)])
                made = json.loads(printed.splitlines()[-1])
                found.setdefault((who, vocab), []).append(made)
                print(f"{who}, vocabulary {vocab}: {made['bytes'] / 1e6:.0f} MB, {made['seconds']:.2f} s", flush=True)
    peak = {key: statistics.median(one["bytes"] for one in made) for key, made in found.items()}
    spent = {key: statistics.median(one["seconds"] for one in made) for key, made in found.items()}
    far = max(
        abs(ours - theirs) / abs(theirs)
        for vocab in VOCABS
        for ours, theirs in zip(
            *([o["loss"], *o["norms"]] for o in (found["ours", vocab][0], found["theirs", vocab][0])), strict=True
        )
    )
    ratios = {vocab: peak["theirs", vocab] / peak["ours", vocab] for vocab in VOCABS}
    print(
        json.dumps(
            {
                "name": "loss_memory",
                "peer": "torch linear + cross_entropy",
                "peer_version": _torch(),
                "ours": {str(vocab): round(peak["ours", vocab] / 1e6) for vocab in VOCABS},
                "theirs": {str(vocab): round(peak["theirs", vocab] / 1e6) for vocab in VOCABS},
                "unit": "MB beyond weights, inputs and their gradients",
                "ratio": round(min(ratios.values()), 2),
                "goal": 2.0,
                "ratios": {str(vocab): round(ratio, 2) for vocab, ratio in ratios.items()},
                "seconds": {f"{who} {vocab}": round(value, 3) for (who, vocab), value in spent.items()},
                "quality": {"largest relative difference of loss and gradient norms": far},
                "ok": far < 1e-4 and min(ratios.values()) >= 2.0,
            }
        )
    )


def _torch() -> str:
    from importlib.metadata import version

    return version("torch")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        one(sys.argv[1], int(sys.argv[2]))
    else:
        main()
