"""Takes a model, leaves it with small trainable matrices beside frozen weights, and folds them in at the end (LoRA)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from raylm.core.config import Config
from raylm.core.errors import ConfigError

if TYPE_CHECKING:
    import torch


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

    def merge(self, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Plain weights in the base model's names: every adapter folded into the matrix it stands beside.

        Args:
            weights: a peft model's full state, as `Engine.weights` returns it.
        """
        merged = {}
        for name, tensor in weights.items():
            if ".lora_" in name:
                continue
            bare = name.removeprefix("base_model.model.")
            if ".base_layer." in bare:
                at = name.replace(".base_layer.weight", "")
                a, b = weights.get(f"{at}.lora_A.default.weight"), weights.get(f"{at}.lora_B.default.weight")
                if a is not None and b is not None and name.endswith(".weight"):
                    tensor = tensor + (b.float() @ a.float() * (self.alpha / self.rank)).to(tensor.dtype)
                bare = bare.replace(".base_layer", "")
            merged[bare] = tensor
        return merged

    def save(self, weights: dict[str, torch.Tensor], base: str, folder: Any) -> None:
        """Write the adapter alone, in peft's file format, to the local `folder`."""
        import json
        from pathlib import Path

        from safetensors.torch import save_file

        adapters = {name.replace(".default.", "."): tensor.contiguous() for name, tensor in weights.items() if ".lora_" in name}
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
