"""The `width` method: a model with narrower layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from raylm.compress.pruning.shares import count
from raylm.core.config import Config

if TYPE_CHECKING:
    from raylm.compress.calibration import Calibration
    from raylm.compress.methods.applied import Applied

Kept = float | int | None


class Width(Config):
    """Width pruning (https://arxiv.org/abs/2407.14679): neurons of the feed-forward layers, groups of heads and hidden channels
    go by what they do on the calibration rows. A plain checkpoint of the same family; it speaks well again after distillation."""

    makes: ClassVar[Literal["rounded", "plain"]] = "plain"
    needs: ClassVar[tuple[str, ...]] = ("calibration",)

    kind: Literal["width"] = "width"
    ffn: Kept = None
    """Neurons of each feed-forward layer that stay: a number, or a share as 0.5. Absent: all."""
    heads: Kept = None
    """Key and value heads of each layer that stay, each with the query heads that share it: a number, or a share."""
    hidden: Kept = None
    """Channels of the hidden states that stay: a number, or a share. Costs more than `ffn` and `heads` do."""
    importance: Literal["activation", "contribution"] = "contribution"
    """`activation`: Minitron's, the mean norm of what a unit gives; `contribution`: that times the weights that read it."""
    compensate: bool = True
    """Fit the matrices that read neurons and heads to those that stay, by least squares on the calibration rows."""
    damping: float = Field(default=0.01, gt=0)
    """Of that fit: how much the weights are held to what they were, as a share of the mean square of the inputs."""

    @model_validator(mode="after")
    def _something_goes(self) -> Width:
        given = [value for value in (self.ffn, self.heads, self.hidden) if value is not None]
        if not given:
            raise ValueError("say what shall be narrower: `ffn`, `heads` or `hidden`")
        if any(value <= 0 or (isinstance(value, float) and value > 1) for value in given):
            raise ValueError("`ffn`, `heads` and `hidden` are whole numbers above 0, or shares up to 1.0")
        return self

    def planned(self, config: dict[str, Any]) -> dict[str, Any]:
        """config.json of what comes out, as far as counting needs it. Raises ConfigError where a number is more than there is."""
        made = dict(config)
        groups = config.get("num_key_value_heads") or config.get("num_attention_heads")
        if groups and config.get("hidden_size"):
            made["head_dim"] = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
        if self.ffn is not None and config.get("intermediate_size"):
            made["intermediate_size"] = count(config["intermediate_size"], self.ffn, "ffn")
        if self.heads is not None and groups:
            kept = count(groups, self.heads, "heads")
            made |= {"num_key_value_heads": kept, "num_attention_heads": kept * config["num_attention_heads"] // groups}
        if self.hidden is not None and config.get("hidden_size"):
            made["hidden_size"] = count(config["hidden_size"], self.hidden, "hidden")
        return made

    def apply(self, model: Any, calibration: Calibration) -> Applied:
        """A narrower model; `model` is changed.

        Raises:
            ConfigError: a number is more than there is, or the family lays out its matrices in an unknown way.
        """
        from raylm.compress.methods.applied import Applied
        from raylm.compress.pruning import axes
        from raylm.compress.pruning.narrowing import Narrowing, Options
        from raylm.compress.pruning.rebuilt import check_decoder
        from raylm.model.checkpoint import num_parameters

        check_decoder(model, "width")
        config, before = model.config, num_parameters(model)
        heads = axes.heads(config, self.heads) if self.heads is not None else None
        ffn = axes.feed_forward(config, self.ffn) if self.ffn is not None else None
        hidden = axes.channels(config, self.hidden) if self.hidden is not None else None
        axes.check_heads(
            config,
            hidden.after if hidden else config.hidden_size,
            heads.values["num_attention_heads"] if heads else config.num_attention_heads,
        )
        inner = [axis for axis in (heads, ffn) if axis]
        cut = Narrowing(model, inner, hidden, Options(self.importance, self.compensate, self.damping))
        made = cut.run(calibration)
        after = num_parameters(made)
        widths = {axis.what: [axis.before, axis.after] for axis in (*inner, *([hidden] if hidden else []))}
        facts: dict[str, Any] = {"parameters": after, "widths": widths}
        if heads:
            facts["heads_kept"] = [cut.kept[name].tolist() for name in cut.kept if name.startswith("heads ")]
        return Applied(
            facts=facts,
            metrics={"num_parameters": after, "parameter_ratio": round(before / after, 4)},
            model=made,
        )
