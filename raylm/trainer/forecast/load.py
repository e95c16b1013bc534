"""Numbers of weights per rank, on the rank with the most, from a model's config.json and the layout. No torch."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from raylm.core.config import resolve
from raylm.data.kinds import ROW_KINDS
from raylm.model.freezing import frozen_names
from raylm.model.model_spec import model_spec
from raylm.model.preflight import decoder_tensors
from raylm.parallel.strategies.strategy import ModelSize

ENDS = ("embed_tokens", "wte", "lm_head", "embed_out")


class Load(NamedTuple):
    """Numbers (not bytes) on the fullest rank, before data ranks share them."""

    blocks: float
    """Weights of its transformer blocks, without experts."""
    experts: float
    """Weights of its share of experts."""
    ends: float
    """Embedding and output layer."""
    layers: float
    """Its transformer blocks."""
    adapter: float = 0.0
    """Weights of adapters beside them."""

    @property
    def weights(self) -> float:
        return self.blocks + self.experts + self.ends


def load_of(config: dict[str, Any], mesh: Any, card: Any = None) -> Load:
    """What tensor, pipeline and expert ranks leave on one of them.

    Args:
        config: config.json of the model.
        card: LoRA, taken as over all linear layers of the blocks; None trains the weights themselves.
    """
    parts = model_spec(config)
    layers = config.get("num_hidden_layers") or config.get("num_layers") or 1
    hidden = config.get("hidden_size") or config["d_model"]
    shared = [m for m in parts.matrices if m.used is not None and m.stored > m.passes]
    head = sum(m.stored * m.weights for m in parts.matrices if m.num_out == config["vocab_size"])
    experts = sum(m.stored * m.weights for m in shared)
    blocks = parts.num_parameters() - parts.looked_up - head - experts - hidden
    most = -(-layers // mesh.pipeline)
    share = most / layers / mesh.tensor
    # of a pipeline the first stage holds the embedding and the last the output layer, tied or not
    tall = (parts.looked_up, head or parts.looked_up) if mesh.pipeline > 1 else (parts.looked_up + head,)
    inner = [m for m in parts.matrices if m not in shared and m.num_out != config["vocab_size"]]
    rank, norms = (card.rank, card.use_dora) if card else (0, False)
    # A and B, and of DoRA the length of each row
    adapter = sum(m.stored * (rank * (m.num_in + m.num_out) + norms * m.num_out) for m in inner) * share
    if card and (saved := [name for name in card.modules_to_save if name.rsplit(".", 1)[-1] in ENDS]):
        # embedding and output layer; tied ones are trained as one
        adapter += parts.looked_up if len(saved) == 1 or not head else parts.looked_up + head
    return Load(blocks * share, experts * share / mesh.expert, max(tall) / mesh.tensor, most, adapter)


def size_of(cfg: Any, config: dict[str, Any], world: int, num_micros: int) -> ModelSize:
    """What the strategy of a train or rl stage is asked about.

    Args:
        config: config.json of its model.
        num_micros: forward passes of a step and rank.
    """
    mesh, adapter = cfg.mesh, getattr(cfg, "adapter", None)
    load, width = load_of(config, mesh, adapter), 2 if cfg.dtype != "float32" else 4
    frozen_blocks, frozen_ends = frozen_shares(cfg, config)
    still = load.blocks * frozen_blocks + load.ends * frozen_ends
    trained, optimizer = load.adapter if adapter else load.weights - still, resolve(cfg.optimizer)
    ends = 0.0 if adapter else load.ends * (1 - frozen_ends)
    state = optimizer.bytes_per_weight * (trained - ends) + optimizer.bytes_per_end * ends
    # the frozen start is a second model, unless it is this one without its adapter
    reference = "reference" in getattr(loss_of(cfg), "needs", ()) and getattr(cfg, "reference", "live") == "live"
    frozen = frozen_bytes(adapter, load, width) if adapter else 4.0 * (still + load.weights * reference)
    return ModelSize(
        blocks=load.blocks + load.experts,
        ends=load.ends,
        layers=load.layers,
        trained=trained,
        frozen_bytes=frozen,
        optimizer_bytes=state + (4.0 * trained if cfg.ema else 0.0),
        width=width,
        data=world // (mesh.tensor * mesh.pipeline * mesh.context),
        context=mesh.context,
        replicas=mesh.replicas,
        pipeline=mesh.pipeline,
        num_micros=num_micros,
        # stacked experts are not put into fewer bits
        stored=0.0 if load.experts else getattr(adapter, "stored_bytes", 0.0),
    )


def reference_bytes(cfg: Any, config: dict[str, Any], world: int) -> float:
    """Bytes of a frozen start on the fullest rank; 0 where there is none, or it is the model without its adapter."""
    if "reference" not in getattr(loss_of(cfg), "needs", ()) or getattr(cfg, "reference", "live") != "live":
        return 0.0
    if getattr(cfg, "adapter", None):
        return 0.0
    size, strategy = size_of(cfg, config, world, 1), resolve(cfg.strategy)
    without = size._replace(frozen_bytes=size.frozen_bytes - 4.0 * load_of(config, cfg.mesh).weights)
    return strategy.memory(size).weights - strategy.memory(without).weights


def frozen_shares(cfg: Any, config: dict[str, Any]) -> tuple[float, float]:
    """Shares of the numbers of blocks and of ends that `freeze` and `unfrozen_parameters` leave untrained; 0 for families whose
    names are not written down here: the forecast is then more than what is taken."""
    freeze, unfrozen = getattr(cfg, "freeze", []), getattr(cfg, "unfrozen_parameters", [])
    tensors = decoder_tensors(config) if freeze or unfrozen else None
    if tensors is None or getattr(cfg, "adapter", None):
        return 0.0, 0.0
    names = frozen_names(list(tensors), freeze, unfrozen)
    if config.get("tie_word_embeddings"):
        del tensors["lm_head.weight"]
    sums = {True: [0, 0], False: [0, 0]}
    for name, shape in tensors.items():
        size = math.prod(shape)
        of = sums[".layers." in name or name == "model.norm.weight"]
        of[0], of[1] = of[0] + size * (name in names), of[1] + size
    return sums[True][0] / sums[True][1], sums[False][0] / sums[False][1]


def frozen_bytes(adapter: Any, load: Load, width: int) -> float:
    """Bytes of the weights that an adapter stands beside.

    Args:
        width: bytes of a number in compute.
    """
    inner = getattr(adapter, "stored_bytes", 0.0) or width
    return inner * load.blocks + width * (load.experts + load.ends)


def loss_of(cfg: Any) -> Any:
    """The card that says the loss: a train stage's objective, an rl stage's algorithm."""
    return resolve(getattr(cfg, "objective", None) or getattr(cfg, "algorithm", None))


def sequences_of(cfg: Any) -> int:
    """Sequences that a row of the stage becomes: a pair has two."""
    kinds = getattr(loss_of(cfg), "rows", ())
    return max((ROW_KINDS[kind].sequences for kind in kinds), default=1)
