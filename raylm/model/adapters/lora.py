"""LoRA adapters by peft: trainable matrices beside frozen weights, merged into them at the end, and written apart."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from raylm.core.config import Config
from raylm.core.errors import ConfigError, TrainingError
from raylm.model.load import kind_of_model

if TYPE_CHECKING:
    import torch

PEFT = "base_model.model."
"""Before every name of a model with adapters."""
BASE = ".base_layer.weight"
"""Behind the name of a layer whose matrix has an adapter."""
# peft's names of what a model is for; it has none for encoders with an output layer
TASKS = {"causal": "CAUSAL_LM", "seq2seq": "SEQ_2_SEQ_LM", "masked": None}


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
    use_rslora: bool = False
    """Multiply the update by alpha / sqrt(rank) instead: large ranks keep learning (https://arxiv.org/abs/2312.03732)."""
    use_dora: bool = False
    """Train the norm of each matrix row apart from its direction (https://arxiv.org/abs/2402.09353). Better at low ranks; each
    pass computes the norms of whole matrices, so it is slower."""

    def attach(self, model: Any, seed: int) -> Any:
        """A peft model over `model`; only the adapters are trainable. Equal seeds give equal adapters on every rank.

        Raises:
            ConfigError: `modules` names nothing, experts, the output layer, or something else than linear layers.
        """
        import torch
        from peft import get_peft_model

        self._check_names(model)
        plain: Any = model
        head, layers = plain.get_output_embeddings(), ", ".join(linear_layers(model)) or "this model has none"
        torch.manual_seed(seed)
        try:
            made = get_peft_model(model, self.peft_config(kind_of_model(model.config)))
        except ValueError as cause:
            raise ConfigError(
                f"peft makes no adapters of this model: {str(cause).splitlines()[0]}",
                where=f"adapter.modules = {self.modules!r}",
                next=f"name linear layers in `modules`: {layers}",
            ) from cause
        self._check_made(made, head, layers)
        return made

    def _check_made(self, made: Any, head: Any, layers: str) -> None:
        """Raises ConfigError for adapters beside what `merge` and the output layer do not know.

        Args:
            head: the output layer, as it was before.
            layers: names of linear layers, for the reader.
        """
        import torch

        # peft turns some names into adapters of the tensors that hold all experts of a layer; `merge` does not know these
        made_config: Any = made.peft_config["default"]
        if fused := sorted(made_config.target_parameters or ()):
            raise ConfigError(
                f"adapters cannot stand beside experts and routers ({', '.join(fused)})",
                next='name linear layers outside of them: modules = ["q_proj", "k_proj", "v_proj", "o_proj"]',
            )
        # `merge` knows matrices of [out, in] alone, and a layer may do more than multiply with its matrix
        adapted = [(name, module.base_layer) for name, module in made.named_modules() if hasattr(module, "lora_A")]
        if at := [name.removeprefix(PEFT) for name, base in adapted if base is head]:
            raise ConfigError(
                f"no adapter can stand beside the output layer ({at[0]}): its logits are never made whole",
                where=f"adapter.modules = {self.modules!r}",
                next=f"name layers inside of blocks: {layers}",
            )
        plain = torch.nn.Linear.forward
        if other := [f"{name} ({type(base).__name__})" for name, base in adapted if type(base).forward is not plain]:
            raise ConfigError(
                f"adapters stand beside linear layers alone, not {other[0]}",
                next=f"name others in `modules`: {layers}",
            )
        # two adapters on one matrix would be folded into it as one
        owners: dict[int, list[str]] = {}
        for name, parameter in made.named_parameters(remove_duplicate=False):
            owners.setdefault(id(parameter), []).append(name)
        tied = [names for names in owners.values() if len(names) > 1 and any(".base_layer." in name for name in names)]
        if tied:
            raise ConfigError(
                f"no adapter can stand beside tied weights ({' and '.join(tied[0])})",
                next=f"name others in `modules`: {layers}",
            )

    def _check_names(self, model: Any) -> None:
        """Raises ConfigError for names that peft would pass over."""
        names = [name for name, _ in model.named_modules()]
        missing = [] if isinstance(self.modules, str) else [m for m in self.modules if not any(_ends(n, m) for n in names)]
        if missing:
            raise ConfigError(
                f"the model has no layers called {', '.join(missing)}",
                where=f"adapter.modules = {self.modules!r}",
                next=f"its linear layers are {', '.join(linear_layers(model))}",
            )

    def peft_config(self, kind: str | None = "causal") -> Any:
        """This card as peft's LoraConfig.

        Args:
            kind: of the model, see `raylm.model.load.kind_of_model`.
        """
        from peft import LoraConfig

        return LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=self.modules,
            use_rslora=self.use_rslora,
            use_dora=self.use_dora,
            task_type=TASKS.get(kind or ""),
        )

    def merge(
        self, weights: Iterable[tuple[str, torch.Tensor]], adapters: dict[str, torch.Tensor] | None = None
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """Plain weights in the base model's names, one after the other, each adapter merged into its matrix by peft.

        Args:
            weights: a peft model's full state, as `Engine.stream` returns it: a matrix comes before its adapter.
            adapters: filled with the adapters' tensors, for `save`.

        Raises:
            TrainingError: an adapter holds values that are not finite.
        """
        adapters = {} if adapters is None else adapters
        waiting: dict[str, dict[str, torch.Tensor]] = {}
        for name, tensor in weights:
            at, is_adapter, _ = name.partition(".lora_")
            if is_adapter:
                adapters[name] = tensor
            elif name.endswith(BASE):
                at = name.removesuffix(BASE)
            else:
                yield name.removeprefix(PEFT).replace(".base_layer.", "."), tensor
                continue
            parts = waiting.setdefault(at, {})
            parts[name.removeprefix(f"{at}.")] = tensor
            # the matrix, A and B, and the magnitudes of DoRA
            if len(parts) == 3 + self.use_dora:
                yield f"{at.removeprefix(PEFT)}.weight", self._merged(at, waiting.pop(at))
        assert not waiting, f"no adapters came for {sorted(waiting)}"

    def _merged(self, at: str, parts: dict[str, torch.Tensor]) -> torch.Tensor:
        """The matrix of one layer with its adapter merged into a copy, by a peft layer of these tensors alone."""
        import torch
        from peft.tuners.lora import Linear

        height, width = parts[BASE.removeprefix(".")].shape
        with torch.device("meta"):
            plain = torch.nn.Linear(width, height, bias=False)
            layer: Any = Linear(plain, "default", config=self.peft_config(), r=self.rank, lora_alpha=self.alpha)
        layer.load_state_dict(parts, assign=True)
        try:
            # safe: into a copy, for the tensor may be the model's own
            layer.merge(safe_merge=True)
        except ValueError as cause:
            raise TrainingError(f"the adapter of {at.removeprefix(PEFT)} is not finite") from cause
        return layer.get_base_layer().weight.detach()

    def save(self, model: Any, adapters: dict[str, torch.Tensor], base: str, folder: Path) -> None:
        """Write the adapter alone, in peft's file format, to the local `folder`.

        Args:
            model: what `attach` returned; its own tensors may be sharded.
            adapters: the adapters' whole tensors, as `merge` collects them.
            base: address of the weights that it stands beside.
        """
        from peft import get_peft_model_state_dict
        from safetensors.torch import save_file

        made = replace(model.peft_config["default"], base_model_name_or_path=base, inference_mode=True)
        if not isinstance(made.target_modules, str):
            # a set: its order would differ from run to run
            made.target_modules = sorted(made.target_modules)
        named = get_peft_model_state_dict(model, state_dict=adapters, save_embedding_layers=False)
        made.save_pretrained(str(folder))
        tensors = {name: tensor.contiguous() for name, tensor in named.items()}
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def beside_new_head() -> ConfigError:
    """Why no adapter is attached to a model that gets a value head: peft would leave the head as it was drawn."""
    return ConfigError(
        "an adapter beside a new value head would train under a random readout",
        where="adapter",
        next="drop `adapter` (full training), or start from a reward model",
    )


def linear_layers(model: Any) -> list[str]:
    """Last parts of the names of the model's linear layers, without its output layer: what `modules` may name."""
    import torch

    head = model.get_output_embeddings()
    plain = torch.nn.Linear.forward
    found = (name for name, module in model.named_modules() if type(module).forward is plain and module is not head)
    # peft's own layers around them end so
    return sorted({name.removesuffix(".base_layer").rsplit(".", 1)[-1] for name in found if ".lora_" not in name})


def _ends(name: str, part: str) -> bool:
    return name == part or name.endswith(f".{part}")
