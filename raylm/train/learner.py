"""The task of a train stage on every rank: model, engine and batches, the loop, the export."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from raylm.core.config import card_kind, resolve
from raylm.core.errors import ArtifactError, ConfigError
from raylm.core.variants import VALUED
from raylm.data.kinds import ROW_KINDS
from raylm.data.mixture import Mixture, refs_of
from raylm.data.shards import Rows
from raylm.model.adapters.checks import beside_new_head
from raylm.model.chat_template import other_template
from raylm.model.head import Asks
from raylm.model.leaks import check_causal, check_documents, check_padding
from raylm.model.load import check_tokenizer, is_composite, kind_of_model, load_tokenizer, text_config
from raylm.model.value_head import with_value_head
from raylm.train.batches import Batches
from raylm.train.loop import Loop
from raylm.train.micro import find_micro
from raylm.train.padding import PaddingFree
from raylm.train.rows import open_rows
from raylm.trainer.build import build, flops_of, load_start
from raylm.trainer.exported import check_export
from raylm.trainer.setup import Setup
from raylm.trainer.teacher import build_teacher
from raylm.trainer.watch.meter import Domains

if TYPE_CHECKING:
    import torch

    from raylm.model.scores import Inputs
    from raylm.parallel.engine import Engine
    from raylm.parallel.group.ranks import Ranks
    from raylm.train.config import Train
    from raylm.trainer.teacher_workers import Teachers


class Made(NamedTuple):
    """A loop, the number of its model's weights, and the model's config before it was laid out."""

    loop: Loop
    parameters: int
    config: Any


def train(ranks: Ranks, cfg: Train, setup: Setup, teachers: Teachers | None = None) -> dict[str, Any]:
    """The task that every rank runs; returns metrics and facts (rank 0's count).

    Args:
        teachers: workers that score the rows of each step, where the objective has some.
    """
    # here, because the driver imports this file and needs no torch
    from raylm.model.checkpoint import lacks_turn_end

    if ranks.rank == 0 and setup.model_path and (other := other_template(setup.tokens, setup.model_path)):
        ranks.say(f"{other}: the checkpoint has that of the rows, and is served with it")
    loop, parameters, config = made_loop(ranks, cfg, setup, teachers)
    metrics = loop.run()
    if ranks.rank == 0 and lacks_turn_end(load_tokenizer(setup.tokenizer_path)):
        ranks.say("the chat template ends answers by no token of its own: engines will not know when one is over")
    loop.export(config)
    asks = loop.losses.asks
    checked = check_export(loop, _samples(loop, setup), Asks(values=asks.values, labels=asks.labels))
    return {
        "metrics": metrics,
        "parameters": parameters,
        "decisions": loop.course.decisions,
        "export": checked.facts,
        "samples": checked.samples if cfg.check_export.vllm else [],
    }


def _samples(loop: Loop, setup: Setup) -> list[Inputs]:
    """Rows on which the exported checkpoint is compared, the same on every rank: held-out ones where there are any."""
    cfg, count = loop.cfg, loop.cfg.check_export.samples
    objective: Any = cfg.objective
    split = "held_out" if loop.held_out and cfg.held_out_rows else "train"
    rows = Batches(
        open_rows(cfg, setup, split),
        setup.rows_kind,
        batch=1,
        micro=cfg.micro_batch if isinstance(cfg.micro_batch, int) else 1,
        seed=cfg.seed,
        pad_id=setup.tokens["pad_token_id"],
        rank=0,
        world=1,
        device=loop.engine.device,
        mismatched="mismatched" in objective.needs,
    )
    picked = rows.first(count)
    return [objective.inputs(micro, cfg.seed) for micro in rows.split(picked)] if picked else []


def made_loop(ranks: Ranks, cfg: Train, setup: Setup, teachers: Teachers | None = None) -> Made:
    """Model, engine and batches of this rank, before the first step."""
    objective = resolve(cfg.objective)
    cfg = cfg.model_copy(update={"document_mask": keeps_apart(cfg, setup)})
    if setup.rows_kind not in objective.rows:
        raise ConfigError(
            f"objective {card_kind(objective)} learns from {' or '.join(objective.rows)}, the rows are {setup.rows_kind}"
        )
    if cfg.document_mask and not ROW_KINDS[setup.rows_kind].packed:
        raise ConfigError(
            f"document_mask keeps documents of packed rows apart, {setup.rows_kind} are not packed", next="drop document_mask"
        )
    if "tokenizer" in objective.needs:
        objective = objective.fitted(setup.rows_kind, load_tokenizer(setup.tokenizer_path))
    cfg = cfg.model_copy(update={"objective": objective})
    padding = PaddingFree(cfg, setup.rows_kind)

    def start() -> torch.nn.Module:
        model = start_model(cfg, setup)
        padding.look_at(model)
        return model

    engine, reference, parameters, config = build(
        ranks, cfg, setup.steps, start, needs_reference="reference" in objective.needs and cfg.reference == "live"
    )
    live = setup.teacher if not setup.scores and teachers is None else None
    teacher = build_teacher(ranks, cfg, setup.steps, live) if live else None
    cfg = cfg.model_copy(update={"objective": objective.for_model(engine.bare)})
    padding_free = padding.agreed(engine, ranks.say)
    micro = _micro(cfg, setup, engine, padding_free)

    def batches(split: str) -> Batches:
        return Batches(
            open_rows(cfg, setup, split),
            setup.rows_kind,
            batch=cfg.batch or 1,
            micro=micro,
            seed=cfg.seed,
            pad_id=setup.tokens["pad_token_id"],
            rank=engine.grid.data_rank,
            world=engine.grid.data_world,
            device=ranks.device,
            document_mask=bool(cfg.document_mask),
            padding_free=padding_free,
            mismatched="mismatched" in objective.needs,
            teachers=teachers,
        )

    num_passes = 1 if cfg.reference == "stored" else objective.num_passes
    held_out, rows, mixed = batches("held_out"), batches("train"), isinstance(cfg.rows, Mixture)
    loop = Loop(
        cfg=cfg,
        setup=setup,
        engine=engine,
        batches=rows,
        held_out=held_out if held_out.first(cfg.held_out_rows) else None,
        reference=reference,
        teacher=teacher,
        log=ranks.log,
        rewind=ranks.rewind,
        say=ranks.say,
        heartbeat=ranks.heartbeat,
        domains=Domains(refs_of(cfg.rows), rows.rows) if mixed and objective.by_part else None,
        flops=flops_of(cfg, config.to_dict(), setup.tokens.get("length"), ranks.world, num_passes),
    )
    return Made(loop, parameters, config)


def keeps_apart(cfg: Train, setup: Setup) -> bool:
    """Whether a token sees its own document alone: as asked, else where dialogues share rows (one would answer another's)."""
    if cfg.document_mask is not None:
        return cfg.document_mask
    return ROW_KINDS[setup.rows_kind].apart and any("starts" in Rows.open(uri, "train")[0] for uri in setup.rows_uris)


def _micro(cfg: Train, setup: Setup, engine: Engine, padding_free: bool) -> int:
    """Rows per forward pass and rank, measured where that is asked for."""
    if cfg.micro_batch != "auto":
        return cfg.micro_batch
    share = -(-(cfg.batch or 1) // engine.grid.data_world)
    length = setup.tokens.get("length") or text_config(engine.bare.config).max_position_embeddings
    return find_micro(
        engine,
        cfg.objective,
        kind=setup.rows_kind,
        length=length,
        vocab_size=setup.tokens["vocab_size"],
        most=share,
        padding_free=padding_free,
    )


def start_model(cfg: Train, setup: Setup) -> torch.nn.Module:
    """The model before its first step: new by shape and seed, or loaded. Raises ConfigError when rows do not fit it."""
    objective: Any = cfg.objective
    value_head, classes = objective.makes in VALUED, setup.tokens.get("classes") or ()
    if setup.model_path is None:
        assert not isinstance(cfg.model, str)
        model = cfg.model.build(setup.tokens, cfg.seed)
    else:
        model = load_start(cfg, setup.model_path, value_head)
        if cfg.new_tokens:
            try:
                known = len(load_tokenizer(setup.model_path))
            except ArtifactError:
                known = None
            model = cfg.new_tokens.resize(model, setup.tokens["vocab_size"], load_tokenizer(setup.tokenizer_path), known)
    if kind_of_model(model.config) not in (objective.model, objective.makes):
        raise ConfigError(
            f"objective {card_kind(objective)} trains {objective.model} models, {type(model).__name__} is none of these"
        )
    if value_head:
        if bool(classes) != (objective.makes == "classifier"):
            raise ConfigError(
                f"objective {card_kind(objective)} learns {'no ' if classes else ''}classes, the rows have "
                + (f"the classes {list(classes)}" if classes else "none"),
                where=setup.rows_uris[0],
                next="take objective classification" if classes else "name the classes in the tokenize stage: form.classes",
            )
        if cfg.adapter and "score" not in cfg.adapter.modules_to_save and kind_of_model(model.config) not in VALUED:
            raise beside_new_head()
        model = with_value_head(model, cfg.seed, classes)
        if model.config.pad_token_id is None:
            # who reads the checkpoint finds a row's last token by it
            model.config.pad_token_id = setup.tokens["pad_token_id"]
    check_tokenizer(model, setup.tokens, setup.rows_uris[0])
    longest, allowed = setup.tokens.get("length", 0), getattr(text_config(model.config), "max_position_embeddings", None)
    if allowed and longest > allowed:
        raise ConfigError(f"rows of {longest} tokens, the model takes {allowed}", next="tokenize with a smaller `length`")
    cut = [key for key in ("tensor", "context", "pipeline", "expert") if getattr(cfg.mesh, key) > 1]
    if is_composite(model.config) and (cut or cfg.document_mask):
        raise ConfigError(
            f"{type(model).__name__} has parts beside its language model, {(cut or ['document_mask'])[0]} knows none",
            next="drop document_mask, and leave the mesh to data ranks",
        )
    for asked, needed in (("document_mask", cfg.document_mask), ("mesh.context", cfg.mesh.context > 1)):
        if needed:
            check_documents(model, asked)
    (check_causal if objective.model == "causal" else check_padding)(model)
    return model
