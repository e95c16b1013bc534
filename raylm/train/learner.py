"""Takes a train config on one rank, leaves the checkpoint's files: builds model, engine and batches, runs the loop, exports."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from raylm.core.config import resolve
from raylm.core.errors import ConfigError
from raylm.core.storage import Folder
from raylm.model.checkpoint import num_parameters, write_checkpoint
from raylm.model.load import check_tokenizer, load_model
from raylm.parallel.assemble import assemble
from raylm.train.batches import Batches
from raylm.train.loop import Loop, Setup
from raylm.train.rows import open_rows

if TYPE_CHECKING:
    import torch

    from raylm.parallel.ranks import Ranks
    from raylm.train.config import Train


def train(ranks: Ranks, cfg: Train, setup: Setup) -> dict[str, Any]:
    """The task that every rank runs; returns metrics and facts (rank 0's count)."""
    objective = resolve(cfg.objective)
    if setup.rows_kind not in objective.rows:
        raise ConfigError(f"objective {objective.kind} learns from {' or '.join(objective.rows)}, the rows are {setup.rows_kind}")
    if cfg.document_mask and setup.rows_kind == "Pairs":
        raise ConfigError("document_mask keeps documents of packed rows apart, Pairs are not packed", next="drop document_mask")
    cfg = cfg.model_copy(update={"objective": objective})
    base = start_model(cfg, setup).to(ranks.device)
    parameters = num_parameters(base)
    model = cfg.adapter.attach(base, cfg.seed) if cfg.adapter else base
    frozen = None
    if "reference" in objective.needs and not cfg.adapter:
        frozen = assemble(copy.deepcopy(base), cfg, setup.steps, rank=ranks.rank, world=ranks.world, frozen=True)
    engine = assemble(model.train(), cfg, setup.steps, rank=ranks.rank, world=ranks.world)

    def batches(split: str) -> Batches:
        return Batches(
            open_rows(cfg, setup, split),
            setup.rows_kind,
            batch=cfg.batch,
            micro=cfg.micro_batch,
            seed=cfg.seed,
            pad_id=setup.tokens["pad_token_id"],
            rank=engine.grid.data_rank,
            world=engine.grid.data_world,
            device=ranks.device,
            document_mask=cfg.document_mask,
        )

    held_out = batches("held_out")
    metrics = Loop(
        cfg=cfg,
        setup=setup,
        engine=engine,
        batches=batches("train"),
        held_out=held_out if held_out.first(cfg.held_out_rows) else None,
        reference=frozen,
        log=ranks.log,
        rewind=ranks.rewind,
    ).run()
    weights = engine.weights()
    if ranks.rank == 0:
        export(cfg, setup, base.config, weights)
    return {"metrics": metrics, "parameters": parameters}


def start_model(cfg: Train, setup: Setup) -> torch.nn.Module:
    """The model before its first step: new by shape and seed, or loaded. Raises ConfigError when rows do not fit it."""
    if setup.model_path is None:
        assert not isinstance(cfg.model, str)
        model = cfg.model.build(setup.tokens, cfg.seed)
    else:
        model = load_model(setup.model_path, cfg.dtype if cfg.adapter else "float32")
    check_tokenizer(model, setup.tokens, setup.rows_uris[0])
    longest, allowed = setup.tokens.get("length", 0), getattr(model.config, "max_position_embeddings", None)
    if allowed and longest > allowed:
        raise ConfigError(f"rows of {longest} tokens, the model takes {allowed}", next="tokenize with a smaller `length`")
    if cfg.document_mask:
        _check_document_mask(model.config, longest)
    return model


def _check_document_mask(config: Any, length: int) -> None:
    """Raises ConfigError when the model would not keep documents apart: its layers must take the mask as it is handed in."""
    window = getattr(config, "sliding_window", None)
    layers = set(getattr(config, "layer_types", None) or (["sliding_attention"] if window else ["full_attention"]))
    if window and length <= window:
        layers.discard("sliding_attention")
    found = sorted(layers - {"full_attention"})
    if config._attn_implementation != "sdpa":
        # eager attention adds the mask to its scores: true would be 1, and false no wall but 0
        found.append(f"{config._attn_implementation} attention")
    if found:
        raise ConfigError(
            f"document_mask cannot keep documents apart in this model: it has {', '.join(found)}",
            where=f"model_type {config.model_type}",
            next="drop document_mask, or take a model with full attention",
        )


def export(cfg: Train, setup: Setup, config: Any, weights: dict[str, torch.Tensor]) -> None:
    """Write the trained weights (adapters folded in) and, apart, the adapter."""
    adapter = cfg.adapter
    if adapter is None:
        write_checkpoint(Folder(setup.out), config, weights, setup.tokenizer_path)
        return
    write_checkpoint(
        Folder(setup.out),
        config,
        adapter.merge(weights),
        setup.tokenizer_path,
        extra=lambda folder: adapter.save(weights, setup.model_path or "", folder / "adapter"),
    )
