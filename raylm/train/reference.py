"""The frozen reference as a scorer of rows ahead of training: what it says of a row is the same in each epoch, and made once.

Training then needs neither a second model nor its forward passes (TRL: `precompute_ref_log_probs`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from raylm.core.config import Config, card_kind, digest_of, resolve
from raylm.core.errors import ConfigError
from raylm.data.kinds import ROW_KINDS
from raylm.train.objectives.objective import REFERENCE
from raylm.trainer.setup import Setup
from raylm.trainer.stored_scores import Scored, content_of

if TYPE_CHECKING:
    from raylm.train.config import Train

# of this process: the engine of the last start that scored, and whether it takes rows without padding
_LOADED: dict[str, tuple[Any, bool]] = {}


def check_stored(cfg: Train) -> None:
    """Raises ConfigError where the objective asks its reference for more than can be stored."""
    objective: Any = resolve(cfg.objective)
    if cfg.reference == "stored" and not objective.stores_reference:
        raise ConfigError(f"objective {card_kind(objective)} {objective.no_store}", where="reference", next='reference = "live"')
    fresh = cfg.reference == "stored" and not isinstance(cfg.model, str)
    if fresh and cfg.adapter and getattr(cfg.adapter, "takes_4bit", False):
        # the scores would be of weights before they are rounded
        raise ConfigError(
            "the reference of a new model beside a 4-bit base is not stored", where="reference", next='reference = "live"'
        )


class Reference(Config):
    """Scores the sequences of rows by the start of training."""

    cfg: Any
    """The train stage."""
    setup: Setup
    content: str
    """What tells the start from others."""

    @classmethod
    def of(cls, cfg: Train, setup: Setup) -> Reference:
        """The reference of a stage."""
        content = content_of(setup.model_path) if setup.model_path else f"{cfg.model} {cfg.seed}"
        return cls(cfg=cfg, setup=setup, content=content)

    def identity(self) -> dict[str, Any]:
        # what an adapter makes of its base (4-bit weights), and rows for new tokens, are part of the start
        parts = {name: part and part.identity() for name in ("adapter", "new_tokens") for part in [getattr(self.cfg, name)]}
        if self.cfg.adapter and self.cfg.adapter.path:
            parts["adapter_content"] = content_of(self.cfg.adapter.path)
        return {"start": self.content, "dtype": self.cfg.dtype, "seed": self.cfg.seed, **parts}

    def score(self, rows: Sequence[dict[str, Any]]) -> list[Scored]:
        """`reference`: log-probability of each of a row's sequences, in nats, float64."""
        objective: Any = resolve(self.cfg.objective)
        engine, padding_free = self._loaded()
        micro, found = self.cfg.micro_batch if isinstance(self.cfg.micro_batch, int) else 8, []
        for start in range(0, len(rows), micro):
            picked = rows[start : start + micro]
            batch = ROW_KINDS[self.setup.rows_kind].collate(
                picked, [1.0] * len(picked), self.setup.tokens["pad_token_id"], engine.device, padding_free=padding_free
            )
            inputs = objective.inputs(batch, 0)
            (scores,) = engine.forward([inputs])
            sums_PN = batch.sums(scores.logprob_BT * inputs.weight_BT).view(-1, len(picked)).t()
            found += [{REFERENCE: sums_N} for sums_N in sums_PN.cpu().numpy()]
        return found

    def _loaded(self) -> tuple[Any, bool]:
        """The start, whole and frozen, on this worker alone, and whether it takes rows without padding."""
        start = digest_of(self.identity())
        if start not in _LOADED:
            _LOADED.clear()
            _LOADED[start] = self._load()
        return _LOADED[start]

    def _load(self) -> tuple[Any, bool]:
        import torch

        from raylm.model.leaks import refused_prefixes
        from raylm.parallel.assemble import assemble
        from raylm.parallel.mesh import Mesh
        from raylm.parallel.strategies.ddp import Ddp
        from raylm.train.learner import start_model

        cfg: Train = self.cfg.model_copy(update={"mesh": Mesh(), "strategy": Ddp(), "ema": None})
        model = start_model(cfg, self.setup)
        if cfg.adapter and cfg.adapter.path:
            # where training begins: not the model without its adapter
            model = cfg.adapter.attach(model, cfg.seed)
        model = model.to("cuda" if torch.cuda.is_available() else "cpu")
        free = cfg.padding_free is not False and ROW_KINDS[self.setup.rows_kind].padding_free
        free = free and refused_prefixes(model) is None
        return assemble(model, cfg, self.setup.steps, frozen=True), free
