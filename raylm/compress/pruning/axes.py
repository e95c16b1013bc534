"""Which dimension of which tensor follows a width of a model's config: found by asking its class for a model of another width.

A model's tensors are compared with those of the same class whose config has one number changed. Where a dimension changes just
as that number does, it is cut with it. So no family has to be known by name; one that lays several matrices into one tensor
(fused projections, experts) shows dimensions that change otherwise, and is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from raylm.compress.pruning.rebuilt import changed_config, field_name
from raylm.compress.pruning.shares import count
from raylm.core.errors import ConfigError

if TYPE_CHECKING:
    import torch

# how families call the width of their feed-forward layer
FEED_FORWARD = ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size", "d_ff")

# families that read `head_dim` of config.json, though transformers' class of their config does not name it
HEAD_DIM = ("qwen3_moe",)


class Axis(NamedTuple):
    """One width of a model."""

    what: str
    """For messages: neurons, heads, channels."""
    before: int
    after: int
    values: dict[str, int]
    """What changes in the config."""
    sizes: dict[int, int]
    """Sizes of dimensions that follow: before -> after."""


class Place(NamedTuple):
    """A dimension of a tensor that follows an axis."""

    name: str
    dim: int
    size: int
    """Before."""


def feed_forward(config: Any, after: int | float) -> Axis:
    """Neurons of the feed-forward layers; a float is the share that stays. Raises ConfigError where there is no such number."""
    known = config.to_dict()
    name = next((each for each in FEED_FORWARD if each in known and not isinstance(known[each], dict)), None)
    if name is None:
        raise ConfigError(f"config.json of {config.model_type} says no width of its feed-forward layers")
    # GPT-2 leaves four times its width unsaid
    before = known[name] or 4 * config.hidden_size
    kept = count(before, after, "ffn")
    return Axis("neurons", before, kept, {name: kept}, {before: kept})


def heads(config: Any, after: int | float) -> Axis:
    """Groups of query heads that share a key and a value head; a float is the share that stays."""
    num_heads, groups = config.num_attention_heads, getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    kept = count(groups, after, "heads")
    width, each = head_dim(config), num_heads // groups
    values = {"num_attention_heads": kept * each}
    if field_name(config, "num_key_value_heads") in config.to_dict():
        values["num_key_value_heads"] = kept
    sizes = {num_heads * width: kept * each * width, groups * width: kept * width}
    return Axis("heads", groups, kept, values, sizes)


def channels(config: Any, after: int | float) -> Axis:
    """Channels of the hidden states; a float is the share that stays."""
    before = config.hidden_size
    kept = count(before, after, "hidden")
    return Axis("channels", before, kept, {"hidden_size": kept}, {before: kept})


def head_dim(config: Any) -> int:
    """Width of one head."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def explicit(config: Any) -> dict[str, int]:
    """The width of a head, where the family's config has such a number: else it is the hidden width by the number of heads."""
    known = config.model_type in HEAD_DIM or hasattr(type(config)(), "head_dim")
    return {"head_dim": head_dim(config)} if known else {}


def check_heads(config: Any, hidden: int, num_heads: int) -> None:
    """Raises ConfigError when a family that has no `head_dim` would have heads of another width: vLLM computes it."""
    if not explicit(config) and hidden != num_heads * head_dim(config):
        raise ConfigError(
            f"config.json of {config.model_type} has no head_dim: with {num_heads} heads and hidden_size {hidden} their width "
            f"would no longer be {head_dim(config)}, and vLLM would read other matrices",
            next="prune `heads` and `hidden` by the same share, or `ffn` alone",
        )


def follows(config: Any, axis: Axis) -> list[Place]:
    """Every dimension that follows `axis`.

    Raises:
        ConfigError: a dimension changes otherwise than the axis, or none does.
    """
    if axis.before == axis.after:
        return []
    found = []
    # a head stays as wide as it is; families whose config has no such number mostly read it where it is there
    fixed = {"head_dim": head_dim(config)}
    ours, theirs = (_shapes(changed_config(config, **fixed, **values)) for values in ({}, axis.values))
    for name, shape in ours.items():
        other = theirs.get(name, ())
        if len(other) != len(shape):
            raise ConfigError(f"{name} of {config.model_type} depends on the number of {axis.what}", next="take the method depth")
        for dim, (before, after) in enumerate(zip(shape, other, strict=True)):
            if before == after:
                continue
            if axis.sizes.get(before) != after:
                raise ConfigError(
                    f"{name} of {config.model_type} holds several matrices or experts in one ({' x '.join(map(str, shape))}): "
                    f"which of its numbers belong to which of the {axis.what} is not known here",
                    next="take the method depth, or another width",
                )
            found.append(Place(name, dim, before))
    if not found:
        raise ConfigError(f"no matrix of {config.model_type} follows the number of {axis.what}", next="take the method depth")
    return found


def units(kept: torch.Tensor, axis: Axis, size: int) -> torch.Tensor:
    """Indices along a dimension of `size` that belong to the kept units: of a dimension of heads all that are theirs."""
    import torch

    each = size // axis.before
    return (kept[:, None] * each + torch.arange(each)[None]).reshape(-1)


def _shapes(config: Any) -> dict[str, tuple[int, ...]]:
    import torch

    from raylm.model.load import auto_class

    with torch.device("meta"):
        made = auto_class(config).from_config(config)
    return {name: tuple(each.shape) for name, each in made.state_dict().items()}
