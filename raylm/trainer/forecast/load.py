"""Takes a model's config.json and a layout, leaves how many numbers lie on the rank that holds the most. No torch."""

from __future__ import annotations

from typing import Any, NamedTuple

from raylm.model.model_spec import model_spec


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


def load_of(config: dict[str, Any], mesh: Any, rank_of_adapter: int = 0) -> Load:
    """What tensor, pipeline and expert ranks leave on one of them.

    Args:
        config: config.json of the model.
        rank_of_adapter: of LoRA over all linear layers of the blocks; 0 trains the weights themselves.
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
    adapter = sum(m.stored * rank_of_adapter * (m.num_in + m.num_out) for m in inner)
    return Load(blocks * share, experts * share / mesh.expert, max(tall) / mesh.tensor, most, adapter * share)
