"""Takes a stage that learns, its model's config.json and its rows' length, leaves the bytes on its fullest rank. No torch."""

from __future__ import annotations

from typing import Any, NamedTuple

from raylm.parallel.mesh import Mesh
from raylm.trainer.forecast.activations import bytes_per_token, in_flight
from raylm.trainer.forecast.load import Load, load_of

# bytes of optimizer state per trained number
STATE = {"adamw": 8.0, "muon": 4.0, "lion": 4.0, "adafactor": 0.02}
EIGHT_BIT = 2 + 8 / 256
# a block's activations and the gradients that are alive at once while it goes back, over its activations alone: measured
GRADIENTS = 1.5
# a rank with torch, transformers and Ray before it has a model: measured
PROCESS = 0.72e9
# what the allocator of such a rank holds over what its tensors take: measured over steps with and without an adapter
HELD = 1.05


class Memory(NamedTuple):
    """Bytes on the fullest rank at a step's fullest moment."""

    weights: float
    gradients: float
    optimizer: float
    """Moments, and the moving average where one is kept."""
    gathered: float
    """Weights gathered from other ranks, casts, and buckets in which gradients travel."""
    activations: float
    loss: float
    """Logits, and gradients made together with the loss."""
    working: float
    """One block while its gradients are made: what it keeps, or computes again, and gradients of that."""
    accumulates: bool
    """Whether gradients of earlier micro batches lie beside activations."""
    process: float = 0.0
    """Of ranks that compute on CPUs: the process with its libraries."""
    loading: float = 0.0
    """Of ranks that compute on CPUs: all that lies there when weights have been read, before the first step."""

    @property
    def total(self) -> float:
        # activations go as gradients come: both are there at once only with accumulation
        begins = self.activations + self.loss + (self.gradients if self.accumulates else 0.0)
        step = self.weights + self.optimizer + self.gathered + max(begins, self.gradients + self.working)
        return self.process + (HELD if self.process else 1.0) * max(step, self.loading)


def memory_of(cfg: Any, config: dict[str, Any], *, length: int, micro: int, world: int, num_micros: int) -> Memory:
    """The forecast of one layout.

    Args:
        cfg: a train or rl stage.
        config: config.json of its model.
        length: tokens of the longest row.
        micro: rows per forward pass and rank.
        num_micros: forward passes of a step and rank.
    """
    mesh, narrow = cfg.mesh, cfg.dtype != "float32"
    adapter = getattr(cfg, "adapter", None)
    load = load_of(config, mesh, adapter.rank if adapter else 0)
    data = world // (mesh.tensor * mesh.pipeline * mesh.context)
    trained = load.adapter if adapter else load.weights
    cut = _cuts(cfg.strategy, data, mesh)
    size = 2 if narrow else 4
    on_host = cfg.workers.gpus == 0 and cfg.workers.device is None
    frozen = load.weights * size / cut["weights"] if adapter else 0.0
    state = (EIGHT_BIT if getattr(cfg.optimizer, "bits", 32) == 8 else STATE[cfg.optimizer.kind]) * trained
    if cfg.optimizer.kind == "muon":
        state += 4.0 * min(load.ends, trained)  # embedding and output layer are AdamW's
    state += 4.0 * trained if cfg.ema else 0.0
    offloaded = getattr(cfg.strategy, "offload", False)
    kept_away = {"optimizer", "parameters"} if offloaded is True else set(offloaded or ())
    dpo = getattr(getattr(cfg, "objective", None), "kind", "") == "dpo"
    tokens = micro * length / mesh.context * (2 if dpo else 1)
    # the frozen start is a second model, unless it is this one without its adapter
    frozen += 4.0 * load.weights / cut["weights"] if dpo and not adapter else 0.0
    # gradients of earlier micro batches lie whole where weights stay gathered, see Engine.cuts_gradients
    stays = mesh.pipeline > 1 or not getattr(cfg.strategy, "reshard", True)
    whole = cfg.strategy.kind == "fsdp" and num_micros > 1 and stays and not kept_away
    # ddp adds gradients up in buckets of their own, which come and go with them
    buckets = 2 if cfg.strategy.kind == "ddp" and data * mesh.context > 1 else 1
    return Memory(
        weights=0.0 if "parameters" in kept_away else frozen + 4.0 * trained / cut["weights"],
        gradients=0.0 if "parameters" in kept_away else 4.0 * buckets * trained / (1 if whole else cut["gradients"]),
        optimizer=0.0 if "optimizer" in kept_away else state / cut["optimizer"],
        gathered=_gathered(cfg.strategy, load, trained, size, data * mesh.context, narrow),
        activations=_activations(cfg, config, load, tokens, num_micros, narrow),
        loss=_loss(cfg, config, tokens, bool(adapter), narrow),
        working=max(
            GRADIENTS * tokens * bytes_per_token(config, mesh, narrow=narrow),
            # an embedding tied to the output layer has two gradients, which are added up at the end
            4.0 * config["hidden_size"] * config["vocab_size"] if config.get("tie_word_embeddings") and not adapter else 0.0,
        ),
        accumulates=num_micros > 1,
        process=PROCESS if on_host else 0.0,
        loading=_loading(cfg, config, load, size, world) if on_host else 0.0,
    )


def _loading(cfg: Any, config: dict[str, Any], load: Load, size: int, world: int) -> float:
    """Bytes on rank 0, which reads all weights: with the pages of files in another dtype, and beside its own piece of them."""
    whole = load_of(config, Mesh()).weights
    own = float(size if getattr(cfg, "adapter", None) else 4)
    stored = 2.0 if str(config.get("dtype") or config.get("torch_dtype")).endswith("16") else 4.0
    mapped = stored * whole if isinstance(cfg.model, str) and stored != own else 0.0
    return own * whole + max(mapped, own * load.weights if world > 1 else 0.0)


def _cuts(strategy: Any, data: int, mesh: Any) -> dict[str, float]:
    """Into how many pieces data ranks cut each kind of number."""
    if strategy.kind == "fsdp":
        pieces = data // mesh.replicas * mesh.context
        return dict.fromkeys(("weights", "gradients", "optimizer"), pieces)
    zero = strategy.zero if strategy.kind == "deepspeed" else 0
    return {name: data if zero >= least else 1 for name, least in (("optimizer", 1), ("gradients", 2), ("weights", 3))}


def _gathered(strategy: Any, load: Load, trained: float, size: int, ranks: int, narrow: bool) -> float:
    if ranks == 1:
        # autocast keeps the casts of a pass; frozen weights are narrow already
        return 2.0 * trained if narrow else 0.0
    block = (load.blocks + load.experts) / max(load.layers, 1)
    if strategy.kind == "fsdp" or (strategy.kind == "deepspeed" and strategy.zero == 3):
        whole = load.blocks + load.experts if not getattr(strategy, "reshard", True) else 2 * block
        # one block's gradients travel in float32 while the next one's come
        return size * (whole + load.ends) + 4.0 * min(2 * block, trained)
    buckets = 0.0 if strategy.kind == "ddp" else 4.0 * min(trained, 2 * strategy.bucket)
    return buckets + (2.0 * trained if narrow else 0.0)


def _activations(cfg: Any, config: dict[str, Any], load: Load, tokens: float, num_micros: int, narrow: bool) -> float:
    kept = bytes_per_token(config, cfg.mesh, narrow=narrow, activation_checkpointing=cfg.activation_checkpointing)
    held = kept * load.layers * in_flight(cfg.mesh, num_micros)
    ends = 4 * config["hidden_size"] * (2 if narrow else 4)
    return tokens * (held + ends)


def _loss(cfg: Any, config: dict[str, Any], tokens: float, frozen: bool, narrow: bool) -> float:
    hidden, vocab = config["hidden_size"], config["vocab_size"] / cfg.mesh.tensor
    if cfg.cross_entropy == "plain":
        return 3 * 4.0 * tokens * vocab
    on_cpu = cfg.workers.gpus == 0
    # float32 logits become their own gradient in place; narrow ones are widened, and kernels make theirs apart
    chunk = (4.0 if on_cpu and not narrow else 8.0) * min(tokens * vocab, max(256 * vocab, 2**22 if on_cpu else 2**28))
    made = 0.0 if frozen else 4.0 * vocab * hidden
    return chunk + 4.0 * tokens * hidden + made
