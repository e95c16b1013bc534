"""Takes prompts and weights, leaves a Checkpoint that earns more reward: resolves inputs, runs the loop, records it."""

from __future__ import annotations

from raylm.core.artifact import Checkpoint, Prompts
from raylm.core.context import Context
from raylm.core.errors import ConfigError, DataError
from raylm.core.workers import Workers
from raylm.data.shards import Rows
from raylm.model.load import check_start, checkpoint_path
from raylm.parallel.group.driver import warm_ranks
from raylm.rl import learner
from raylm.rl.config import RL
from raylm.rl.loop import Loop
from raylm.rl.placement import Judges, Learners, Samplers
from raylm.rl.types import Prompt

HOLDS = ("ranks", "sampler", "judge")


def warm(cfg: RL, workers: Workers) -> None:
    """Start the learner's ranks while the stage before still runs."""
    warm_ranks(workers, cfg.workers, cfg.sizes())


def run(cfg: RL, ctx: Context) -> Checkpoint:
    """Run `cfg.steps` rounds. Raises DataError without prompts, ConfigError when a reward needs a truth they lack."""
    prompts = ctx.open_as(cfg.prompts, Prompts)
    train, held_out = read_prompts(prompts, "train"), read_prompts(prompts, "held_out")[: cfg.held_out_prompts]
    if not train:
        raise DataError("there are no prompts", where=prompts.uri)
    if any(card.kind == "answer" for card in cfg.rewards) and all(prompt.truth is None for prompt in train):
        raise ConfigError(
            "the reward `answer` needs a truth, no prompt has one", where=prompts.uri, next="give the rows an `answer` column"
        )
    model_path = checkpoint_path(ctx, cfg.model)
    check_start(model_path, learner.NEEDS, prompts.folder, prompts.facts["vocab_size"])
    setup = learner.Setup(
        run=ctx.fingerprint,
        model_path=model_path,
        pad_id=prompts.facts["pad_token_id"],
        out=ctx.out.uri,
        work=ctx.work.uri,
    )
    longest = max(len(prompt.tokens) for prompt in [*train, *held_out])
    with ctx.progress(cfg.steps, "rounds") as bar:

        def log(step: int, **values: float) -> None:
            ctx.log(step, **values)
            bar.to(step + 1, reward=values["reward"], kl_to_sampler=values.get("kl_to_sampler", 0.0))

        learners = Learners(cfg, ctx, setup)

        def rewind(step: int) -> None:
            ctx.rewind([row for row in ctx.metric_rows if row["step"] < step])

        samplers, judges = Samplers(cfg, ctx, longest), Judges(cfg, ctx.workers)
        metrics = Loop(cfg, samplers, judges, learners, train, held_out, log, rewind, ctx.flush).run()
    learners.export()
    rows = ctx.metric_rows
    metrics |= {"reward_first": rows[0]["reward"], "reward_last": rows[-1]["reward"]}
    facts = {
        "steps": cfg.steps,
        "prompts": len(train),
        "algorithm": cfg.algorithm.kind,
        "base_model": cfg.model,
        **{
            key: prompts.facts[key]
            for key in ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")
            if key in prompts.facts
        },
    }
    return ctx.commit(Checkpoint, facts=facts, metrics=metrics)


def read_prompts(artifact: Prompts, split: str) -> list[Prompt]:
    """All prompts of one split, in order."""
    rows = Rows.open(artifact.uri, split)
    return [
        Prompt(index, [int(t) for t in row["tokens"]], str(row["messages"]), row["truth"])
        for index, row in ((index, rows[index]) for index in range(len(rows)))
    ]
