"""The `depth` method: a model with fewer layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from raylm.core.config import Config
from raylm.core.errors import ConfigError

if TYPE_CHECKING:
    from raylm.compress.calibration import Calibration
    from raylm.compress.methods.applied import Applied


class Depth(Config):
    """Depth pruning: the least important decoder blocks go. A plain checkpoint of the same family, faster in the share of its
    blocks; it speaks well again after some distillation (`train` with objective distill, the parent as teacher)."""

    makes: ClassVar[Literal["rounded", "plain"]] = "plain"
    needs: ClassVar[tuple[str, ...]] = ("calibration",)

    kind: Literal["depth"] = "depth"
    share: float = Field(default=0.5, gt=0, le=1)
    """Share of the layers that stay, to the next whole number."""
    num_layers: int | None = Field(default=None, gt=0)
    """In place of `share`: number of layers that stay."""
    importance: Literal["block_influence", "consecutive", "loss"] = "block_influence"
    """`block_influence`: those go that change their input least (1 - cosine); `consecutive`: the run of layers that changes it
    least as a whole; `loss`: one after another that layer without which the loss on the calibration rows is least, which takes a
    pass over the rows for each layer that is left, each time."""

    @model_validator(mode="after")
    def _one_of_both(self) -> Depth:
        if self.num_layers is not None and "share" in self.model_fields_set:
            raise ValueError("say either `share` or `num_layers`")
        return self

    def planned(self, config: dict[str, Any]) -> dict[str, Any]:
        """config.json of what comes out, as far as counting needs it. Raises ConfigError where `num_layers` is too many."""
        name = next((each for each in ("num_hidden_layers", "n_layer") if each in config), None)
        return {**config, name: self._kept(config[name])} if name else config

    def _kept(self, total: int) -> int:
        kept = self.num_layers or max(1, round(total * self.share))
        if kept > total:
            raise ConfigError(f"num_layers = {kept}, but the model has {total}", next="lower it")
        return kept

    def apply(self, model: Any, calibration: Calibration) -> Applied:
        """A model with the layers of `model` that matter most.

        Raises:
            ConfigError: `num_layers` is more than there are, or the family's layers depend on their number in an unknown way.
        """
        from raylm.compress.blocks import decoder_blocks
        from raylm.compress.methods.applied import Applied
        from raylm.compress.pruning.layers import without_layers
        from raylm.compress.pruning.rebuilt import check_decoder
        from raylm.model.checkpoint import num_parameters

        check_decoder(model, "depth")
        total = len(decoder_blocks(model)[1])
        num_kept = self._kept(total)
        kept, found = _choose(self.importance, model, calibration, total, num_kept)
        made = without_layers(model, kept)
        before, after = num_parameters(model), num_parameters(made)
        return Applied(
            facts={"parameters": after, "layers_kept": kept, "layers_before": total, "importance": found},
            metrics={"num_layers": num_kept, "num_parameters": after, "parameter_ratio": round(before / after, 4)},
            model=made,
        )


def _choose(by: str, model: Any, calibration: Calibration, total: int, num_kept: int) -> tuple[list[int], Any]:
    """Numbers of the layers that stay, and what was found out of each."""
    from raylm.compress.pruning.layers import distances, least_loss

    if num_kept == total:
        return list(range(total)), []
    if by == "loss":
        return least_loss(model, calibration, num_kept)
    if by == "consecutive":
        span = total - num_kept
        found = distances(model, calibration, span)
        # the last layer makes logits of what the others leave: a run that ends with it goes only where all but it go
        start = min(range(len(found) - 1) if len(found) > 1 else range(1), key=lambda at: found[at])
        return [at for at in range(total) if not start <= at < start + span], [round(each, 6) for each in found]
    found = distances(model, calibration)
    kept = sorted(sorted(range(total), key=lambda at: found[at], reverse=True)[:num_kept])
    return kept, [round(each, 6) for each in found]
