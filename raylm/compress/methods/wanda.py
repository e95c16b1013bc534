"""The `wanda` method: weights of small magnitude times small inputs become zero."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from raylm.compress.pruning.masks import Sparsity
from raylm.core.config import Config

if TYPE_CHECKING:
    import torch

    from raylm.compress.calibration import Calibration
    from raylm.compress.methods.applied import Applied


class Sparse(Config):
    """What methods have in common that set weights to zero and leave the shape of a model as it is."""

    makes: ClassVar[Literal["rounded", "plain"]] = "plain"
    needs: ClassVar[tuple[str, ...]] = ("calibration",)

    share: float = Field(default=0.5, gt=0, lt=1)
    """Share of each layer's weights that become zero, wherever they lie."""
    pattern: str | None = None
    """In place of `share`: how many of how many weights side by side stay, as "2:4" or "4:8"."""

    @model_validator(mode="after")
    def _one_of_both(self) -> Sparse:
        if self.pattern is not None and "share" in self.model_fields_set:
            raise ValueError("say either `share` or `pattern`")
        Sparsity.read(self.share, self.pattern)
        return self

    @property
    def sparsity(self) -> Sparsity:
        """What becomes zero."""
        return Sparsity.read(self.share, self.pattern)


class Wanda(Sparse):
    """Pruning by weights and activations (https://arxiv.org/abs/2306.11695): in each output of a layer those weights go whose
    |weight| times the L2 norm of their input is smallest. Nothing else changes."""

    kind: Literal["wanda"] = "wanda"

    def apply(self, model: Any, calibration: Calibration) -> Applied:
        """Prune `model` in place. Raises ConfigError where its layers do not fit, see `sparsify`."""
        from raylm.compress.pruning.sparse import sparsify

        return sparsify(model, calibration, self.sparsity, lambda weight_OI, of: wanda(weight_OI, of.norms_I, self.sparsity))


def wanda(weight_OI: torch.Tensor, norms_I: torch.Tensor, sparsity: Sparsity) -> torch.Tensor:
    """`weight_OI` with zeros at the lowest |weight| * norm of each output."""
    return weight_OI * sparsity.kept(weight_OI.abs() * norms_I.to(weight_OI))
