"""Forecast of seconds per step, and where they go. No torch.

compute    FLOPs over the peak, times the share that large matrix products reach in practice
exchange   bytes over the links: what cannot hide behind compute is added
bubble     idle share of a pipeline
"""

from __future__ import annotations

from typing import Any, NamedTuple

from raylm.core.config import resolve
from raylm.core.errors import PlanError
from raylm.model.flops import flops_per_token
from raylm.parallel.pipeline.bubble import bubble
from raylm.parallel.strategies.strategy import ModelSize
from raylm.trainer.forecast.devices import Device
from raylm.trainer.forecast.load import loss_of, sequences_of, size_of

# share of the dense peak that whole training steps reach when nothing is exchanged: constants for all models and layouts.
# An 8192^3 product reaches 80 % on Hopper; attention, norms and the optimizer take the rest
REACHED = {"bfloat16": 0.48, "float8": 0.34, "float32": 0.24}
# share of a link's bandwidth that collectives reach
LINK = 0.75
# share of FSDP's and pipelines' exchange that hides behind compute
HIDDEN = 0.8


class Speed(NamedTuple):
    """One step, in seconds; the parts add up."""

    compute_s: float
    communication_s: float
    bubble_s: float
    tokens: float
    """Tokens of the global batch."""
    flops: float
    """Model FLOPs of the step over all ranks, as MFU counts them."""
    world: int

    @property
    def step_s(self) -> float:
        return self.compute_s + self.communication_s + self.bubble_s

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.step_s

    def mfu(self, device: Device) -> float:
        """Model FLOPs utilisation against the dense bfloat16 peak."""
        return self.flops / self.step_s / self.world / (device.bfloat16 * 1e12)


def speed_of(
    cfg: Any, config: dict[str, Any], device: Device, *, length: int, batch: float, micro: int, world: int, float8: bool = False
) -> Speed:
    """The forecast of one layout.

    Args:
        batch: rows of the global batch.
        float8: linear layers compute in 8-bit floats, whatever `cfg.dtype` says.

    Raises:
        PlanError: the device has no 8-bit floats.
    """
    mesh = cfg.mesh
    loss = loss_of(cfg)
    needs = getattr(loss, "needs", ())
    passes = getattr(loss, "num_passes", 1 + ("reference" in needs) + ("trainer_logprobs" in needs))
    if getattr(cfg, "reference", "live") == "stored":
        passes = 1
    tokens = batch * length * sequences_of(cfg)
    flops = flops_per_token(config, length) * tokens
    # each pass that prepares a batch is a forward pass more
    again = {"full": 4 / 3, "selective": 1.05}.get(cfg.activation_checkpointing, 1.0) + (passes - 1) / 3
    kind = "float8" if float8 else cfg.dtype
    if kind == "float8" and not device.float8:
        raise PlanError("this device has no float8", where="dtype", next="set dtype = 'bfloat16', or name another workers.device")
    peak = {"float8": device.float8, "bfloat16": device.bfloat16, "float32": device.bfloat16 / 2}[kind] * 1e12
    compute = flops * again / world / (peak * REACHED[kind])
    data = world // (mesh.tensor * mesh.pipeline * mesh.context)
    num_micros = max(1, round(batch / data / micro))
    idle = bubble(mesh.schedule, mesh.pipeline, num_micros, mesh.virtual) if mesh.pipeline > 1 else 0.0
    exchange = _weights_s(cfg, device, world, size_of(cfg, config, world, num_micros)) + _tokens_s(
        cfg, config, device, tokens / data
    )
    # what has to wait for the exchange of weights can hide it; what is left is exposed
    return Speed(compute, exchange, (compute + exchange) * idle / (1 - idle), tokens, flops, world)


def _weights_s(cfg: Any, device: Device, world: int, size: ModelSize) -> float:
    """Exposed seconds of gathering weights and adding up gradients over data ranks."""
    if size.ranks == 1:
        return 0.0
    inside = world <= device.per_machine
    link = (device.intra_gb_s if inside else device.inter_gb_s) * 1e9 * LINK
    # gathers stay inside a replica, and there inside the machine where it is that small
    group = size.ranks // size.replicas
    gather_link = device.intra_gb_s * 1e9 * LINK if group * cfg.mesh.tensor <= device.per_machine else link
    traffic, share = resolve(cfg.strategy).traffic(size), (size.ranks - 1) / size.ranks
    return share * (traffic.gathers / gather_link + traffic.gradients / link) * (1 - HIDDEN)


def _tokens_s(cfg: Any, config: dict[str, Any], device: Device, tokens_of_rank: float) -> float:
    """Exposed seconds of exchanging hidden states: tensor, context, expert and pipeline ranks."""
    mesh, layers, hidden = cfg.mesh, config["num_hidden_layers"], config["hidden_size"]
    size = 2 if cfg.dtype != "float32" else 4
    intra = device.intra_gb_s * 1e9 * LINK
    inter = device.inter_gb_s * 1e9 * LINK
    state = tokens_of_rank * hidden * size / mesh.context
    seconds = 0.0
    if mesh.tensor > 1:
        # two gathers and two scatters of the hidden states in each direction of a block, none of which can hide
        link = intra if mesh.tensor <= device.per_machine else inter
        seconds += 8 * layers / mesh.pipeline * state * (mesh.tensor - 1) / mesh.tensor / link
    if mesh.context > 1:
        link = intra if mesh.tensor * mesh.context <= device.per_machine else inter
        kv = (config.get("num_key_value_heads") or config["num_attention_heads"]) / config["num_attention_heads"]
        seconds += 6 * layers / mesh.pipeline * state * kv * (mesh.context - 1) / link * (1 - HIDDEN)
    if mesh.expert > 1:
        link = intra if mesh.tensor * mesh.expert <= device.per_machine else inter
        picked = config.get("num_experts_per_tok") or 1
        seconds += 4 * layers / mesh.pipeline * state * picked * (mesh.expert - 1) / mesh.expert / link
    if mesh.pipeline > 1:
        seconds += 2 * state / inter * (1 - HIDDEN)
    return seconds
