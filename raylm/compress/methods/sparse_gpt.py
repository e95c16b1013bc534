"""The `sparse_gpt` method: weights become zero one input after another, and the others make up for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from raylm.compress.methods.wanda import Sparse
from raylm.compress.pruning.masks import Sparsity
from raylm.core.errors import DataError

if TYPE_CHECKING:
    import torch

    from raylm.compress.calibration import Calibration
    from raylm.compress.methods.applied import Applied


class SparseGpt(Sparse):
    """One-shot pruning by the layers' second-order error (https://arxiv.org/abs/2301.00774). Slower than wanda, and better where
    much becomes zero."""

    kind: Literal["sparse_gpt"] = "sparse_gpt"
    damping: float = Field(default=0.01, gt=0)
    """Share of the mean diagonal of X^T X that is added to the diagonal."""
    block_size: int = Field(default=128, gt=0)
    """Inputs whose zeros are chosen together."""

    def apply(self, model: Any, calibration: Calibration) -> Applied:
        """Prune `model` in place. Raises ConfigError where its layers do not fit, see `sparsify`."""
        from raylm.compress.pruning.sparse import sparsify

        def prune(weight_OI: torch.Tensor, of: Any) -> torch.Tensor:
            return sparse_gpt(weight_OI, of.gram_II, self.sparsity, self.damping, self.block_size)

        return sparsify(model, calibration, self.sparsity, prune)


def sparse_gpt(
    weight_OI: torch.Tensor, gram_II: torch.Tensor, sparsity: Sparsity, damping: float = 0.01, block_size: int = 128
) -> torch.Tensor:
    """A sparse matrix whose outputs are near those of `weight_OI` on inputs with X^T X = `gram_II`.

    Inputs are gone through once. Of the upper Cholesky factor R of (X^T X + damping)^-1, row j is what the optimal update of
    the inputs behind j needs when a weight of input j becomes zero: w -= w_j / R_jj * R_j.

    Raises:
        DataError: X^T X has no Cholesky factor.
    """
    import torch

    weight_OI = weight_OI.clone()
    factor_II, dead_I = _factor(gram_II, damping)
    factor_II = factor_II.to(weight_OI)
    weight_OI[:, dead_I] = 0
    # whole groups of a pattern lie in one block
    size = block_size if not sparsity.of else max(block_size // sparsity.of, 1) * sparsity.of
    width = weight_OI.shape[1]
    for start in range(0, width, size):
        end = min(start + size, width)
        part_OB, factor_BB = weight_OI[:, start:end], factor_II[start:end, start:end]
        errors_OB = torch.zeros_like(part_OB)
        diagonal_B = factor_BB.diagonal()
        kept_OB = torch.ones_like(part_OB, dtype=torch.bool)
        if not sparsity.of:
            kept_OB = sparsity.kept((part_OB / diagonal_B) ** 2, by_row=False)
        for j in range(end - start):
            if sparsity.of and j % sparsity.of == 0:
                group = slice(j, j + sparsity.of)
                kept_OB[:, group] = sparsity.kept((part_OB[:, group] / diagonal_B[group]) ** 2)
            error_O = torch.where(kept_OB[:, j], 0.0, part_OB[:, j] / diagonal_B[j])
            part_OB[:, j:] -= error_O[:, None] * factor_BB[j, j:]
            errors_OB[:, j] = error_O
        # what is subtracted from itself need not be 0 to the bit
        part_OB *= kept_OB
        weight_OI[:, end:] -= errors_OB @ factor_II[start:end, end:]
    return weight_OI


def _factor(gram_II: torch.Tensor, damping: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Upper Cholesky factor of the inverse of the damped matrix, and which inputs were always 0."""
    import torch

    damped_II = gram_II.double().clone()
    dead_I = damped_II.diagonal() == 0
    damped_II.diagonal()[dead_I] = 1.0
    damped_II.diagonal().add_(damping * damped_II.diagonal().mean())
    lower_II, failed = torch.linalg.cholesky_ex(damped_II)
    if int(failed):
        raise DataError(
            "the inputs of a layer are too nearly dependent for a Cholesky factor", next="raise `damping`, or take more rows"
        )
    factor_II, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower_II), upper=True)
    if int(failed):
        raise DataError(
            "the inputs of a layer are too nearly dependent for a Cholesky factor", next="raise `damping`, or take more rows"
        )
    return factor_II, dead_I
