"""An algorithm with critic and reference in a few lines, iterations of its trainer on any number of ranks, and both by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from raylm.core.config import Config, digest_of
from raylm.parallel.group.heartbeat import NoHeartbeat
from raylm.parallel.group.ranks import Ranks
from raylm.parallel.optimizers.adamw import AdamW
from raylm.rl import trainer
from raylm.rl.config import RL
from raylm.rl.minibatches import in_minibatches
from raylm.rl.types import Experience, Sample
from raylm.trainer.loss import Loss
from tests.model.tiny import tiny_model, tiny_tokenizer
from tests.rl.samples import config, setup_of

KL, TEMPERATURE = 0.1, 0.7
LRS, EPS = (1e-3, 3e-3), 1e-5
"""Of policy and critic. A gradient that is all rounding moves a weight by little: Adam made a whole step of it, and machines
round in different ways."""
SHAPE = {"vocab": 64, "hidden": 64, "layers": 2}


class Valued(Config):
    """Clipped policy loss with advantages over a critic, k1 against the reference, squared error of values."""

    needs: ClassVar[tuple[str, ...]] = ("trainer_logprobs", "reference", "critic")

    kind: Literal["valued"] = "valued"
    num_generations: int = 2

    def advantages(self, experience: Experience) -> Experience:
        made = []
        for one in experience.samples:
            values = np.asarray(one.values)
            returns = np.full(len(values), one.reward, dtype=np.float32)
            made.append(one._replace(advantages=returns - values, returns=returns, weight=1.0 + 0.5 * (one.row % 2)))
        return experience._replace(samples=made)

    def divisor(self, samples: list[Sample]) -> float:
        return 2.0 * len(samples)

    def loss(self, inputs: Any) -> Loss:
        ratio_BT = (inputs.logprob_BT - inputs.old_BT).exp()
        gain_BT = torch.minimum(ratio_BT * inputs.advantage_BT, ratio_BT.clamp(0.8, 1.2) * inputs.advantage_BT)
        apart_BT = inputs.logprob_BT - inputs.reference_BT
        total = ((KL * apart_BT - gain_BT) * inputs.mask_BT).sum()
        mismatch_BT = (inputs.old_BT - inputs.generator_BT).abs() * inputs.mask_BT
        return Loss(total, {"loss": total.detach(), "mismatch": mismatch_BT.sum(), "tokens": inputs.mask_BT.sum()})

    def critic_loss(self, inputs: Any) -> Loss:
        near_BT = inputs.old_value_BT + (inputs.value_BT - inputs.old_value_BT).clamp(-0.2, 0.2)
        worse_BT = torch.maximum((inputs.value_BT - inputs.return_BT) ** 2, (near_BT - inputs.return_BT) ** 2)
        total = (worse_BT * inputs.mask_BT).sum()
        return Loss(total, {"loss": total.detach(), "value": (inputs.value_BT * inputs.mask_BT).sum().detach()})


CARD = {"kind": "custom", "path": "tests.rl.valued:Valued"}


def valued_config(**table: Any) -> RL:
    policy, critic = (AdamW(lr=lr, eps=EPS, weight_decay=0.0, schedule="constant", warmup=0.0) for lr in LRS)
    usual = {"algorithm": CARD, "epochs": 2, "minibatches": 2, "optimizer": policy, "iterations": 2, "micro_batch": 3}
    return config(**usual | {"critic": {"optimizer": critic}} | table)


def drawn(model: Any, seed: int = 3) -> list[Sample]:
    """Four groups of two or three completions with the model's own log-probabilities; one token of some is an environment's."""
    draw, made = torch.Generator().manual_seed(seed), []
    for row in range(4):
        prompt = torch.randint(3, 64, (4 + row,), generator=draw).tolist()
        for number in range(2 + row % 2):
            tokens = [*prompt, *torch.randint(3, 64, (3 + 2 * number + row,), generator=draw).tolist()]
            with torch.no_grad():
                logits = model(torch.tensor([tokens])).logits[0, len(prompt) - 1 : -1]
            found = (logits / TEMPERATURE).log_softmax(-1).gather(1, torch.tensor(tokens[len(prompt) :])[:, None])[:, 0]
            mask = torch.ones(len(found))
            if number:
                mask[1] = 0.0
            logprobs = (found * mask).tolist()
            made.append(Sample(row, tokens, len(prompt), logprobs, float((row + number) % 3), mask=mask.tolist()))
    return made


def write(folder: Path) -> Any:
    """The start of the policy in `folder`/model; the model."""
    model = tiny_model(**SHAPE).eval()
    model.save_pretrained(folder / "model")
    tiny_tokenizer(64).save_pretrained(folder / "model")
    return model


def started(rank: int, world: int, folder: Path, cfg: RL, **more: Any) -> tuple[Ranks, trainer.Setup]:
    """A trainer of the model in `folder`/model."""
    ranks = Ranks(rank, world, torch.device("cpu"), None, NoHeartbeat())
    ranks.say = print
    setup = setup_of(folder, steps=cfg.iterations, rows_uris=["prompts"], num_rows=[4], prompt_rows=list(range(4)), **more)
    trainer.build(ranks, cfg, setup)
    return ranks, setup


def iterated(rank: int, world: int, folder: Path, table: dict[str, Any], given: list[Sample]) -> dict[str, Any]:
    """Two iterations on the same samples: what was scored, stats, and the weights of policy and critic."""
    cfg = valued_config(**table)
    ranks, setup = started(rank, world, folder, cfg)
    held, rows, scores = ranks.held[trainer.HELD], [], []
    for at in range(cfg.iterations):
        experience = trainer.score(ranks, setup, Experience(given, list(range(4)), at), Valued.needs)
        scores.append(experience.samples)
        rows.append(trainer.update(ranks, setup, at, Valued().advantages(experience)))
    return {
        "scores": scores,
        "rows": rows,
        "policy": {name: tensor.clone() for name, tensor in held.weights()},
        "critic": held.critic.weights(),
        "steps": (held.engine.done, held.critic.done),
    }


def saved(rank: int, world: int, folder: Path, work: Path, table: dict[str, Any], given: list[Sample]) -> None:
    """The first of the two iterations, and a step checkpoint of it in `work`."""
    ranks, setup = started(rank, world, folder, valued_config(**table), work=str(work))
    experience = trainer.score(ranks, setup, Experience(given, list(range(4)), 0), Valued.needs)
    trainer.update(ranks, setup, 0, Valued().advantages(experience))
    trainer.save(ranks, setup, 1, {}, [])
    ranks.held[trainer.HELD].saver.close()


def by_hand(folder: Path, given: list[Sample], cfg: RL, value_model: Any) -> dict[str, Any]:
    """The same with two models of transformers, all samples one by one, torch's AdamW."""
    from transformers import AutoModelForCausalLM

    policy, reference = (AutoModelForCausalLM.from_pretrained(folder / "model") for _ in range(2))
    optimizers = [
        torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95), eps=EPS, weight_decay=0.0)
        for model, lr in zip((policy, value_model), LRS, strict=True)
    ]

    def logprobs(model: Any, sample: Sample) -> torch.Tensor:
        logits = model(torch.tensor([sample.tokens])).logits[0, sample.num_prompt - 1 : -1] / TEMPERATURE
        return logits.log_softmax(-1).gather(1, torch.tensor(sample.tokens[sample.num_prompt :])[:, None])[:, 0]

    def values(sample: Sample) -> torch.Tensor:
        return value_model(input_ids=torch.tensor([sample.tokens])).logits[0, sample.num_prompt - 1 : -1, 0]

    losses, scores = [], []
    for iteration in range(cfg.iterations):
        with torch.no_grad():
            known = {id(s): (logprobs(policy, s), logprobs(reference, s), values(s)) for s in given}
        scores.append([known[id(s)] for s in given])
        for epoch in range(cfg.epochs):
            seed = int(digest_of([cfg.seed, "minibatches", iteration, epoch])[:12], 16)
            for part in in_minibatches(given, cfg.minibatches, seed):
                divisor, of_policy, of_critic = 2.0 * len(part), torch.zeros(()), torch.zeros(())
                for sample in part:
                    old, start, old_values = known[id(sample)]
                    weight = torch.tensor(sample.mask) * (1.0 + 0.5 * (sample.row % 2))
                    new, now = logprobs(policy, sample), values(sample)
                    ratio, gain = (new - old).exp(), sample.reward - old_values
                    kept = torch.minimum(ratio * gain, ratio.clamp(0.8, 1.2) * gain)
                    of_policy = of_policy + ((KL * (new - start) - kept) * weight).sum() / divisor
                    near = old_values + (now - old_values).clamp(-0.2, 0.2)
                    worse = torch.maximum((now - sample.reward) ** 2, (near - sample.reward) ** 2)
                    of_critic = of_critic + (worse * weight).sum() / divisor
                losses.append((float(of_policy.detach()), float(of_critic.detach())))
                for model, optimizer, loss in zip((policy, value_model), optimizers, (of_policy, of_critic), strict=True):
                    optimizer.zero_grad()
                    loss.backward()
                    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                    optimizer.step()
    return {"losses": losses, "scores": scores, "policy": policy.state_dict(), "critic": value_model.state_dict()}
