"""Forecast of the memory of the fullest rank of a training stage. No torch."""

from __future__ import annotations

from typing import Any, NamedTuple

from raylm.core.config import resolve
from raylm.model.model_spec import model_spec
from raylm.parallel.mesh import Mesh
from raylm.trainer.forecast.activations import bytes_per_token, in_flight
from raylm.trainer.forecast.load import Load, frozen_bytes, load_of, loss_of, sequences_of, size_of

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
    load = load_of(config, mesh, adapter)
    on_host = cfg.workers.gpus == 0 and cfg.workers.device is None
    tokens = micro * length / mesh.context * sequences_of(cfg)
    held = resolve(cfg.strategy).memory(size_of(cfg, config, world, num_micros))
    return Memory(
        **held._asdict(),
        activations=_activations(cfg, config, load, tokens, num_micros, narrow),
        loss=_loss(cfg, config, tokens, bool(adapter), narrow) + _taught(cfg, config, tokens, num_micros),
        working=max(
            GRADIENTS * tokens * bytes_per_token(config, mesh, narrow=narrow),
            # an embedding tied to the output layer has two gradients, which are added up at the end
            4.0 * config["hidden_size"] * config["vocab_size"] if config.get("tie_word_embeddings") and not adapter else 0.0,
        )
        + _unpacked(config, adapter, narrow),
        accumulates=num_micros > 1,
        process=PROCESS if on_host else 0.0,
        loading=_loading(cfg, config, load, 2 if narrow else 4, world) if on_host else 0.0,
    )


def _unpacked(config: dict[str, Any], adapter: Any, narrow: bool) -> float:
    """Bytes of the largest matrix that is stored in fewer bits, while it multiplies."""
    if not getattr(adapter, "stored_bytes", 0.0):
        return 0.0
    inner = (m for m in model_spec(config).matrices if m.used is None and m.num_out != config["vocab_size"])
    return (2 if narrow else 4) * max(m.num_in * m.num_out for m in inner)


def _loading(cfg: Any, config: dict[str, Any], load: Load, size: int, world: int) -> float:
    """Bytes on rank 0, which reads all weights: with the pages of files in another dtype, and beside its own piece of them."""
    all_of_it, adapter = load_of(config, Mesh()), getattr(cfg, "adapter", None)
    from_disk, packs = isinstance(cfg.model, str), bool(getattr(adapter, "stored_bytes", 0.0))
    own = float(size if adapter else 4)
    # a new model is there in float32 before its matrices are put into fewer bits
    whole = frozen_bytes(adapter, all_of_it, size) if packs and from_disk else own * all_of_it.weights
    stored = 2.0 if str(config.get("dtype") or config.get("torch_dtype")).endswith("16") else 4.0
    mapped = stored * all_of_it.weights if from_disk and (stored != own or packs) else 0.0
    mine = frozen_bytes(adapter, load, size) if packs else own * load.weights
    return whole + max(mapped, mine if world > 1 else 0.0)


def _activations(cfg: Any, config: dict[str, Any], load: Load, tokens: float, num_micros: int, narrow: bool) -> float:
    kept = bytes_per_token(config, cfg.mesh, narrow=narrow, activation_checkpointing=cfg.activation_checkpointing)
    held = kept * load.layers * in_flight(cfg.mesh, num_micros)
    ends = 4 * config["hidden_size"] * (2 if narrow else 4)
    return tokens * (held + ends)


def _taught(cfg: Any, config: dict[str, Any], tokens: float, num_micros: int) -> float:
    """What a teacher says of all micro batches of a step, and what is computed of one: each holds several numbers a class."""
    objective = loss_of(cfg)
    if "teacher" not in getattr(objective, "needs", ()):
        return 0.0
    return min(objective.top_k, config["vocab_size"]) * tokens * (8.0 * num_micros + 6 * 4.0)


def _loss(cfg: Any, config: dict[str, Any], tokens: float, frozen: bool, narrow: bool) -> float:
    hidden, vocab = config["hidden_size"], config["vocab_size"] / cfg.mesh.tensor
    if cfg.cross_entropy == "plain":
        return 3 * 4.0 * tokens * vocab
    on_cpu = cfg.workers.gpus == 0
    # float32 logits become their own gradient in place; narrow ones are widened, and kernels make theirs apart
    chunk = (4.0 if on_cpu and not narrow else 8.0) * min(tokens * vocab, max(256 * vocab, 2**22 if on_cpu else 2**28))
    made = 0.0 if frozen else 4.0 * vocab * hidden
    return chunk + 4.0 * tokens * hidden + made
