"""Takes a model, leaves it with small trainable matrices beside frozen weights, and folds them in at the end (LoRA)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from raylm.core.config import Config
from raylm.core.errors import ConfigError

if TYPE_CHECKING:
    import torch

PEFT = "base_model.model."
"""Before every name of a model with adapters."""


class Lora(Config):
    """Low-rank adapters (https://arxiv.org/abs/2106.09685), modules and file format by peft."""

    kind: Literal["lora"] = "lora"
    rank: int = Field(default=8, gt=0)
    """Rank of the two matrices."""
    alpha: int = 16
    """Scale; the update is multiplied by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout on the adapter's input."""
    modules: str | list[str] = "all-linear"
    """Linear layers that get an adapter, by name, or all of them."""

    def attach(self, model: torch.nn.Module, seed: int) -> Any:
        """A peft model over `model`; only the adapters are trainable. Equal seeds give equal adapters on every rank.

        Raises:
            ConfigError: `modules` means experts, or something else than linear layers.
        """
        import torch
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(seed)
        made = get_peft_model(
            model,
            LoraConfig(
                r=self.rank, lora_alpha=self.alpha, lora_dropout=self.dropout, target_modules=self.modules, task_type="CAUSAL_LM"
            ),
        )
        # peft turns some names into adapters of the tensors that hold all experts of a layer; `merge` does not know these
        made_config: Any = made.peft_config["default"]
        if fused := sorted(made_config.target_parameters or ()):
            raise ConfigError(
                f"adapters cannot stand beside experts and routers ({', '.join(fused)})",
                next='name linear layers outside of them: modules = ["q_proj", "k_proj", "v_proj", "o_proj"]',
            )
        # `merge` knows matrices of [out, in] alone
        adapted = ((name, module.base_layer) for name, module in made.named_modules() if hasattr(module, "lora_A"))
        if other := [f"{name} ({type(base).__name__})" for name, base in adapted if not isinstance(base, torch.nn.Linear)]:
            raise ConfigError(f"adapters stand beside linear layers alone, not {other[0]}", next="name others in `modules`")
        return made

    def merge(
        self, weights: Iterable[tuple[str, torch.Tensor]], adapters: dict[str, torch.Tensor] | None = None
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """Plain weights in the base model's names, one after the other: each adapter folded into the matrix it stands beside.

        Args:
            weights: a peft model's full state, as `Engine.stream` returns it. A matrix waits for its adapter, which follows.
            adapters: filled with the adapters that came by, for `save`.
        """
        adapters = {} if adapters is None else adapters
        waiting: dict[str, torch.Tensor] = {}
        for name, tensor in weights:
            at, is_adapter, _ = name.partition(".lora_")
            if not is_adapter:
                if name.endswith(".base_layer.weight"):
                    waiting[name.removesuffix(".base_layer.weight")] = tensor
                else:
                    yield name.removeprefix(PEFT).replace(".base_layer.", "."), tensor
                continue
            adapters[name] = tensor
            a, b = (adapters.get(f"{at}.lora_{one}.default.weight") for one in "AB")
            if a is not None and b is not None and at in waiting:
                base = waiting.pop(at)
                yield (
                    f"{at.removeprefix(PEFT)}.weight",
                    base + (b.float() @ a.float() * (self.alpha / self.rank)).to(base.dtype),
                )
        assert not waiting, f"no adapters came for {sorted(waiting)}"

    def save(self, adapters: dict[str, torch.Tensor], base: str, folder: Any) -> None:
        """Write the adapter alone, in peft's file format, to the local `folder`."""
        import json
        from pathlib import Path

        from safetensors.torch import save_file

        adapters = {name.replace(".default.", "."): tensor.contiguous() for name, tensor in adapters.items()}
        Path(folder).mkdir(parents=True, exist_ok=True)
        save_file(adapters, Path(folder) / "adapter_model.safetensors", metadata={"format": "pt"})
        touched = sorted({name.split(".lora_")[0].split(".")[-1] for name in adapters})
        config = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base,
            "r": self.rank,
            "lora_alpha": self.alpha,
            "lora_dropout": self.dropout,
            "target_modules": touched,
            "bias": "none",
        }
        (Path(folder) / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
