"""The `rl` stage: resolves prompts and weights, runs the loop, records the Checkpoint."""

from __future__ import annotations

import json
import sys
from collections import Counter
from contextlib import ExitStack
from typing import Any
from uuid import uuid4

from raylm.core.artifact import STEPS, Checkpoint, Prompts
from raylm.core.config import card_kind, resolve
from raylm.core.context import Context
from raylm.core.errors import ConfigError, DataError
from raylm.core.workers import Workers
from raylm.data.answers import ground_truth_of
from raylm.data.shards import Rows
from raylm.inference.parity import compare_engine
from raylm.model.limits import config_of
from raylm.model.load import check_start, checkpoint_path
from raylm.parallel.checkpoints.steps import keep_for_good
from raylm.parallel.group.driver import warm_ranks
from raylm.rl.checks import check_cards, check_prompts, check_thoughts, few_prompts, known_of
from raylm.rl.config import RL
from raylm.rl.conversations import Conversations, open_conversations
from raylm.rl.loop import Loop
from raylm.rl.placement import Generators, TrainerGroup
from raylm.rl.reward_workers import RewardWorkers
from raylm.rl.rewards.role_worker import Where
from raylm.rl.sample_ledger import SampleLedger
from raylm.rl.sample_table import held_out_table, sample_table
from raylm.rl.seen import Seen
from raylm.rl.trainer import CRITIC_NEEDS, NEEDS, Setup
from raylm.rl.types import Prompt
from raylm.trainer.recorder import Recorder
from raylm.trainer.setup import Teacher
from raylm.trainer.teacher import find_teacher
from raylm.trainer.watch.profile import check_profile

# metrics on the terminal's line
SHOWN = ("reward", "mismatch_kl", "memory_gb")


def warm(cfg: RL, workers: Workers) -> None:
    """Start the trainer's ranks while the stage before still runs."""
    warm_ranks(workers, cfg.workers, cfg.sizes())


def run(cfg: RL, ctx: Context) -> Checkpoint:
    """Run the iterations.

    Raises:
        DataError: there are no prompts, or none that the rewards can score.
        ConfigError: prompts, model, rewards and algorithm do not fit together.
    """
    prompts, model_path = ctx.open_as(cfg.prompts, Prompts), checkpoint_path(ctx, cfg.model)
    check_cards(cfg)
    train, held_out = read_prompts(prompts, "train"), read_prompts(prompts, "held_out")
    if not train:
        raise DataError("there are no prompts", where=prompts.uri)
    conversations = open_conversations(cfg, model_path) if cfg.environment else None
    if conversations:
        # with the environment's tools in them, as the model is asked
        train, held_out = conversations.asked(train), conversations.asked(held_out)
    longest = max(len(prompt.tokens) for prompt in [*train, *held_out])
    largest = max(max(prompt.tokens, default=0) for prompt in [*train, *held_out])
    known = known_of(prompts)._replace(longest=longest, largest=largest)
    for line in check_prompts(cfg, known, model_path, config_of(model_path), made=True):
        print(f"  {line}", file=sys.stderr)
    check_thoughts(cfg, train, prompts.folder)
    train, without = _with_ground_truth(cfg, train, prompts.uri)
    held_out = _with_ground_truth(cfg, held_out, prompts.uri)[0][: cfg.held_out_prompts] if held_out else []
    if len(train) < cfg.prompts_per_iteration <= (known.count or 0):
        # as far as the artifact said there were enough
        print(f"  {few_prompts(cfg, len(train))}", file=sys.stderr)
    check_start(model_path, NEEDS, prompts.folder, prompts.facts["vocab_size"])
    check_profile(cfg.watch.profile, cfg.iterations, cfg.workers.count)
    if cfg.adapter and cfg.adapter.path:
        cfg = cfg.model_copy(update={"adapter": cfg.adapter.opened(checkpoint_path(ctx, cfg.adapter.path), model_path)})
    setup = Setup(
        rows_uris=[prompts.uri],
        num_rows=[known.count or 0],
        rows_kind=prompts.kind,
        model_path=model_path,
        tokens=prompts.facts,
        steps=cfg.iterations,
        tokenizer_path=model_path,
        out=ctx.out.uri,
        work=ctx.work.uri,
        run=uuid4().hex,
        prompt_rows=[prompt.row for prompt in train],
        length=longest + cfg.max_tokens,
        teacher=_teacher(cfg, ctx, prompts, train),
        critic_path=_critic(cfg, ctx, prompts),
    )
    loop, recorder, metrics, kept = _run_loop(cfg, ctx, setup, train, held_out, conversations)
    exported = {**loop.exported.facts, **_compared_with_vllm(cfg, ctx, loop.exported.samples)}
    unscored = {name: total for name, total in _unscored(ctx.metric_rows).items() if total}
    metrics = {**metrics, **recorder.metrics("reward"), **unscored}
    facts = {
        "iterations": cfg.iterations,
        "parameters": loop.exported.parameters,
        **({"export": exported} if exported else {}),
        **({"decisions": loop.decisions} if loop.decisions else {}),
        "prompts": len(train),
        "prompts_without_ground_truth": without,
        "algorithm": card_kind(cfg.algorithm),
        **({"iterations_without_rollouts": loop.unseen} if loop.unseen else {}),
        **({"teacher": setup.teacher.ref} if setup.teacher else {}),
        "base_model": cfg.model,
        **{
            key: prompts.facts[key]
            for key in ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id", "chat_template_sha256")
            if key in prompts.facts
        },
    }
    samples = [("Samples", sample_table(ctx.out)), ("Held-out prompts, answered greedily", held_out_table(ctx.out))]
    recorder.report({**facts, **metrics}, samples)
    keep_for_good(ctx.work, ctx.out / STEPS, cfg.keeping())
    return ctx.commit(Checkpoint, variant="causal", facts=facts, metrics=metrics, rows=kept)


def _run_loop(
    cfg: RL, ctx: Context, setup: Setup, train: list[Prompt], held_out: list[Prompt], conversations: Conversations | None
) -> tuple[Loop, Recorder, dict[str, float], dict[str, int]]:
    """The loop, after its last iteration; its recorder, its metrics, and the rows of the files of rollouts."""
    longest = setup.length - cfg.max_tokens
    with ExitStack() as stack:
        recorder = stack.enter_context(Recorder(cfg, ctx, cfg.iterations, "iterations", SHOWN))
        seen = stack.enter_context(Seen(cfg, ctx.out))
        if conversations:
            stack.callback(conversations.close)
            conversations.limit(setup.length)
        trainer = TrainerGroup(cfg, ctx, setup)

        def where(model: str) -> Where:
            return Where(checkpoint_path(ctx, model), setup.tokenizer_path)

        generators, rewards = Generators(cfg, ctx, longest), RewardWorkers(cfg, ctx.workers, where)
        by_row, ledger = {prompt.row: prompt for prompt in train}, SampleLedger(ctx.work, ctx.out)
        loop = Loop(cfg, generators, rewards, trainer, by_row, held_out, recorder, ledger, seen, conversations)
        metrics = loop.run()
        return loop, recorder, metrics, seen.finish()


def _compared_with_vllm(cfg: RL, ctx: Context, samples: list[Any]) -> dict[str, Any]:
    """What the generators say of the samples with the exported weights, where that is asked for: facts."""
    if not samples:
        return {}
    card, dtype = cfg.check_export, cfg.engine_dtype
    return compare_engine(ctx.workers, cfg.generator, ctx.out.uri, samples, dtype, lambda made: card.allowed(cfg.dtype, made))


def _teacher(cfg: RL, ctx: Context, prompts: Prompts, train: list[Prompt]) -> Teacher | None:
    """The model that the algorithm is taught by; None where it needs none. Raises ConfigError where it reads other tokens."""
    card: Any = resolve(cfg.algorithm)
    if "teacher" not in getattr(card, "needs", ()):
        return None
    return find_teacher(
        ctx,
        card.teacher,
        ("float32" if cfg.dtype == "float32" else "bfloat16") if card.teacher_dtype == "auto" else card.teacher_dtype,
        rows=({"tokens": prompt.tokens} for prompt in train),
        tokenizer=prompts.folder.path("tokenizer"),
        vocab_size=prompts.facts["vocab_size"],
        length=max(len(prompt.tokens) for prompt in train) + cfg.max_tokens,
        names=cfg.prompts,
    )


def _critic(cfg: RL, ctx: Context, prompts: Prompts) -> str | None:
    """Where the critic starts, if that is not where the policy does. Raises ConfigError where it reads other tokens."""
    if cfg.critic is None or cfg.critic.model is None:
        return None
    path = checkpoint_path(ctx, cfg.critic.model)
    check_start(path, CRITIC_NEEDS, prompts.folder, prompts.facts["vocab_size"])
    return path


def _with_ground_truth(cfg: RL, prompts: list[Prompt], uri: str) -> tuple[list[Prompt], int]:
    """The prompts that every reward has something to compare with, and how many have not. Raises ConfigError without any."""
    cards = [card for card in map(resolve, cfg.rewards) if hasattr(card, "can_score")]
    left = [prompt for prompt in prompts if all(card.can_score(prompt.ground_truth) for card in cards)]
    if not left:
        raise ConfigError(
            f"the reward `{card_kind(cards[0])}` needs a ground truth, no prompt has one that it can compare with",
            where=uri,
            next="give the rows an `answer` column",
        )
    without = len(prompts) - len(left)
    if without:
        print(f"  {without} of {len(prompts)} prompts have no ground truth to compare with and are left out", file=sys.stderr)
    return left, without


def _unscored(rows: list[dict[str, float]]) -> Counter[str]:
    """Completions of all iterations that had no score, by reason."""
    totals: Counter[str] = Counter()
    for row in rows:
        totals.update({name: int(value) for name, value in row.items() if name.startswith("unscored")})
    return totals


def read_prompts(artifact: Prompts, split: str) -> list[Prompt]:
    """All prompts of one split, in order."""
    rows = Rows.open(artifact.uri, split)
    return [
        Prompt(
            index,
            [int(t) for t in row["tokens"]],
            str(row["messages"]),
            ground_truth_of(row["ground_truth"]),
            columns=json.loads(row["columns"]) if row.get("columns") else None,
            source=str(row.get("source") or ""),
        )
        for index, row in ((index, rows[index]) for index in range(len(rows)))
    ]
