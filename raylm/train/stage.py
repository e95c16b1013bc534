"""The `train` stage: resolves inputs, hands the run to a rank group, records the Checkpoint."""

from __future__ import annotations

import math
from typing import Any

from raylm.core.artifact import STEPS, Artifact, Checkpoint
from raylm.core.config import card_kind, resolve
from raylm.core.context import Context
from raylm.core.variants import VALUED
from raylm.core.workers import Workers
from raylm.data.mixture import refs_of
from raylm.data.shards import Rows
from raylm.inference.parity import compare_engine
from raylm.model.load import check_start, checkpoint_path
from raylm.model.preflight import Needs
from raylm.parallel.checkpoints.steps import keep_for_good
from raylm.parallel.group.driver import RANKS, hold_ranks, warm_ranks
from raylm.train.config import Train
from raylm.train.learner import keeps_apart, train
from raylm.train.reference import Reference, check_stored
from raylm.train.rows import drawn, held_out_bytes_per_token, num_rows, open_parts
from raylm.train.size import size_of
from raylm.trainer.recorder import Recorder
from raylm.trainer.setup import Setup, Teacher
from raylm.trainer.stored_scores import store_scores
from raylm.trainer.teacher import find_teacher
from raylm.trainer.teacher_workers import TEACHER, Teachers, hold_teachers
from raylm.trainer.watch.profile import check_profile

# what of the workers' held things this stage uses
COMPARED = 64
"""Rows whose tokens are compared with those of a teacher's tokenizer."""
# metrics on the terminal's line
SHOWN = ("loss", "tokens_per_s", "mfu", "memory_gb")


def warm(cfg: Train, workers: Workers) -> None:
    """Start the ranks while the stage before still runs, unless their places are reserved together with others'."""
    if getattr(cfg.objective, "scores_beside", bool)():
        return
    warm_ranks(workers, cfg.workers, cfg.sizes())


def prepared(cfg: Train, ctx: Context) -> tuple[Train, Setup, list[Artifact]]:
    """Resolve inputs: the stage with its batch in rows and its length in steps, what ranks are told, artifacts of rows."""
    check_stored(cfg)
    parts = open_parts(cfg, ctx)
    rows, sizes = parts[0], [num_rows(part) for part in parts]
    size = size_of(cfg, [part.facts for part in parts], sizes)
    # from here on batch and length of the run are in rows and steps, however they were asked for
    steps, cfg = size.steps, cfg.model_copy(update={"batch": size.batch, "steps": size.steps})
    check_profile(cfg.watch.profile, steps, cfg.workers.count)
    model_path = checkpoint_path(ctx, cfg.model) if isinstance(cfg.model, str) else None
    if model_path is not None:
        objective: Any = resolve(cfg.objective)
        check_start(
            model_path,
            Needs(
                objective.model,
                plain=True,
                value_head=objective.makes in VALUED,
                four_bits=getattr(cfg.adapter, "takes_4bit", False),
            ),
            rows.folder,
            0 if cfg.new_tokens else rows.facts["vocab_size"],
        )
    if cfg.adapter and cfg.adapter.path:
        opened = cfg.adapter.opened(checkpoint_path(ctx, cfg.adapter.path), model_path or "")
        cfg = cfg.model_copy(update={"adapter": opened})
    setup = Setup(
        rows_uris=[part.uri for part in parts],
        num_rows=sizes,
        rows_kind=rows.kind,
        model_path=model_path,
        tokens=rows.facts,
        steps=steps,
        tokenizer_path=rows.folder.path("tokenizer"),
        teacher=_teacher(cfg, ctx, rows),
        out=ctx.out.uri,
        work=ctx.work.uri,
    )
    return cfg, setup.model_copy(update={"scores": _scores(cfg, ctx, setup, parts)}), parts


def _scores(cfg: Train, ctx: Context, setup: Setup, parts: list[Artifact]) -> list[str]:
    """Where scores of the rows lie that the objective wants made ahead, once they are made; [] where it wants none."""
    objective: Any = resolve(cfg.objective)
    if cfg.reference == "live" and not objective.scores_ahead():
        return []

    def make_room() -> None:
        # ranks that an earlier stage left would hold the GPUs, or the cores of a shared cluster, that this pass waits for
        if ctx.workers.submitted or cfg.workers.gpus:
            ctx.workers.release(f"{RANKS}:")

    scorer = Reference.of(cfg, setup) if cfg.reference == "stored" else objective.scorer(setup, keeps_apart(cfg, setup))
    return [store_scores(ctx, scorer, part, cfg.scorers or cfg.workers, make_room) for part in parts]


def _teacher(cfg: Train, ctx: Context, rows: Artifact) -> Teacher | None:
    """The model that the objective is taught by; None where it needs none. Raises ConfigError where it reads other tokens."""
    objective: Any = resolve(cfg.objective)
    if "teacher" not in objective.needs:
        return None
    some = Rows.open(rows.uri, "train")
    return find_teacher(
        ctx,
        objective.teacher,
        ("float32" if cfg.dtype == "float32" else "bfloat16") if objective.teacher_dtype == "auto" else objective.teacher_dtype,
        rows=(some[at] for at in range(min(len(some), COMPARED))),
        tokenizer=rows.folder.path("tokenizer"),
        vocab_size=rows.facts["vocab_size"],
        length=rows.facts.get("length") or 0,
        names=refs_of(cfg.rows)[0],
    )


def _teachers(cfg: Train, ctx: Context, setup: Setup) -> Teachers | None:
    """Workers that answer beside the ranks, where the objective has some."""
    objective: Any = resolve(cfg.objective)
    if not objective.scores_beside():
        return None
    scorer = objective.scorer(setup, keeps_apart(cfg, setup))
    return hold_teachers(ctx.workers, scorer, cfg.scorers or cfg.workers, {RANKS: cfg.workers.role()})


def compared_with_vllm(cfg: Train, ctx: Context, samples: list[Any]) -> dict[str, Any]:
    """What vLLM says of the samples, where that is asked for: facts. Raises StageError when it is something else."""
    if not samples:
        return {}
    if cfg.workers.gpus:
        # their memory is the engine's
        ctx.workers.release(RANKS)
        ctx.workers.release(f"{TEACHER}:")
    dtype, card = "float32" if cfg.dtype == "float32" else "bfloat16", cfg.check_export
    spec = cfg.engine_spec()
    return compare_engine(ctx.workers, spec, ctx.out.uri, samples, dtype, lambda computes: card.allowed(cfg.dtype, computes))


def run(cfg: Train, ctx: Context) -> Checkpoint:
    """Train on `cfg.workers.count` ranks. Raises DataError without rows, TrainingError when the numbers stop making sense."""
    cfg, setup, parts = prepared(cfg, ctx)
    rows, sizes, steps = parts[0], setup.num_rows, setup.steps
    teachers = _teachers(cfg, ctx, setup)
    group = hold_ranks(ctx.workers, cfg.workers, cfg.sizes())
    with Recorder(cfg, ctx, steps, "steps", SHOWN) as recorder:
        result = group.call(train, cfg, setup, teachers, on_row=recorder.from_ranks, aside=ctx.out)
    exported = {**result["export"], **compared_with_vllm(cfg, ctx, result["samples"])}
    metrics = {**result["metrics"], **recorder.metrics("loss")}
    bytes_per_token = held_out_bytes_per_token(cfg, parts)
    if bytes_per_token:
        for when in ("before", "after"):
            # the loss of a distillation is not that of the tokens alone
            nats = metrics.get(f"held_out_label_loss_{when}", metrics.get(f"held_out_loss_{when}"))
            if nats is not None:
                metrics[f"held_out_bits_per_byte_{when}"] = nats / math.log(2) / bytes_per_token
    facts = {
        "steps": steps,
        "rows": sum(sizes),
        **drawn(cfg, parts, steps),
        "parameters": result["parameters"],
        **({"decisions": result["decisions"]} if result["decisions"] else {}),
        **({"export": exported} if exported else {}),
        "objective": card_kind(cfg.objective),
        **({"teacher": setup.teacher.ref} if setup.teacher else {}),
        "base_model": cfg.model if isinstance(cfg.model, str) else None,
        **{
            key: rows.facts[key]
            for key in ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id", "chat_template_sha256")
            if key in rows.facts
        },
    }
    recorder.report({**facts, **metrics})
    # the step whose weights were exported is kept for good only where that was asked for
    keep_for_good(ctx.work, ctx.out / STEPS, cfg.keeping()._replace(best=cfg.keep_best))
    objective: Any = resolve(cfg.objective)
    return ctx.commit(Checkpoint, variant=objective.makes or objective.model, facts=facts, metrics=metrics)
