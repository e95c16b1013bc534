"""Peak memory and seconds of a distillation loss with its gradients at a vocabulary of 151,936: raylm's heads (the teacher's 64
likeliest tokens and one rest) against TRL's GKD loss, which holds all logits of both models. Each in a process of its own,
alternating; over the whole of a small vocabulary both must find the same."""

from __future__ import annotations

import json
import statistics
import sys
import time
from importlib.metadata import version
from types import SimpleNamespace

from tests.bench.near_copies.peers import timed

TOKENS, HIDDEN, TOP_K, VOCAB, SMALL, ROUNDS = 512, 256, 64, 151_936, 1_024, 2


def one(who: str, vocab: int) -> None:
    """Print peak growth of the process in bytes, seconds, loss and the norms of the student's gradients."""
    import resource

    import torch

    from raylm.model.divergence import divergence
    from raylm.model.head import Asks, Question, head_of

    gkd = _gkd() if who == "theirs" else None
    torch.manual_seed(0)
    student, teacher = (torch.nn.Linear(HIDDEN, vocab, bias=False) for _ in range(2))
    teacher.weight.data.mul_(8.0)  # one that prefers some tokens
    hidden, of_teacher = torch.randn(1, TOKENS, HIDDEN, requires_grad=True), torch.randn(1, TOKENS, HIDDEN)
    student.weight.grad, hidden.grad = torch.zeros_like(student.weight), torch.zeros_like(hidden)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    if gkd:
        with torch.no_grad():
            logits = teacher(of_teacher)
        loss = gkd(student(hidden), logits, beta=0.0, num_items_in_batch=1)
    else:
        k, target, weight = min(TOP_K if vocab == VOCAB else vocab, vocab), torch.zeros(1, TOKENS).long(), torch.ones(1, TOKENS)

        def asked(head: torch.nn.Linear, hidden: torch.Tensor, asks: Asks, ids: torch.Tensor | None = None) -> torch.Tensor:
            config = SimpleNamespace(vocab_size=vocab, get_text_config=lambda decoder: config)
            model = torch.nn.Module()
            model.config, model.get_output_embeddings = config, lambda: head  # type: ignore[assignment]
            askable = head_of(model)
            askable.asked = Question(asks, target, weight, "chunked", ids)
            return askable(hidden)

        with torch.no_grad():
            told = asked(teacher, of_teacher, Asks(top_k=k))
        rest, ids, logprobs = told[..., 2:3], told[..., 3 : 3 + k].int(), told[..., 3 + k :]
        answer = asked(student, hidden, Asks(at_ids=k), ids)
        loss = divergence(answer[..., 2:], torch.cat([rest, logprobs], -1), "forward").sum()
    loss.backward()
    spent = time.perf_counter() - started
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    norms = [float(hidden.grad.norm()), float(student.weight.grad.norm())]
    print(json.dumps({"bytes": grown, "seconds": spent, "loss": float(loss.detach()), "norms": norms}))


def _gkd():
    from trl.experimental.gkd.gkd_trainer import GKDTrainer

    return GKDTrainer.generalized_jsd_loss


def main() -> None:
    found: dict[tuple[str, int], list[dict]] = {}
    for _ in range(ROUNDS):
        for vocab in (VOCAB, SMALL):
            for who in ("ours", "theirs"):
                _, printed = timed([sys.executable, "-m", "tests.bench.distill_memory", who, str(vocab)])
                # TRL warns on its way out
                made = json.loads(next(line for line in reversed(printed.splitlines()) if line.startswith("{")))
                found.setdefault((who, vocab), []).append(made)
                print(f"{who}, vocabulary {vocab}: {made['bytes'] / 1e6:.0f} MB, {made['seconds']:.2f} s", flush=True)
    peak, spent = (
        {who: statistics.median(each[name] for each in found[who, VOCAB]) for who in ("ours", "theirs")}
        for name in ("bytes", "seconds")
    )
    exact = [[each["loss"], *each["norms"]] for each in (found["ours", SMALL][0], found["theirs", SMALL][0])]
    far = max(abs(ours - theirs) / abs(theirs) for ours, theirs in zip(*exact, strict=True))
    ratio = peak["theirs"] / peak["ours"]
    print(
        json.dumps(
            {
                "name": "distill_memory",
                "peer": "trl GKD loss on all logits",
                "peer_version": version("trl"),
                "ours": round(peak["ours"] / 1e6),
                "theirs": round(peak["theirs"] / 1e6),
                "unit": f"MB beyond weights, inputs and their gradients, {TOKENS} tokens",
                "ratio": round(ratio, 2),
                "goal": 4.0,
                "seconds": {who: round(value, 2) for who, value in spent.items()},
                "quality": {"largest relative difference over a whole vocabulary": far},
                "ok": far < 1e-4 and ratio >= 4.0,
            }
        )
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        one(sys.argv[1], int(sys.argv[2]))
    else:
        main()
