"""LoRA adapters by peft: trainable matrices beside frozen weights, merged into them at the end, and written apart."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator

from raylm.core.config import Config, Refers
from raylm.core.errors import ConfigError
from raylm.model.adapters.checks import check_made, check_names, linear_layers, not_mutable
from raylm.model.adapters.merging import adapted_layers, fold, merged
from raylm.model.adapters.mutated import Start, as_plain_lora
from raylm.model.adapters.saved import check_base, fields_of, load_into
from raylm.model.load import kind_of_model, load_model

if TYPE_CHECKING:
    import torch

# peft's names of what a model is for; it has none for encoders with an output layer
TASKS = {"causal": "CAUSAL_LM", "seq2seq": "SEQ_2_SEQ_LM", "masked": None}
# these take a part of the base's matrices over into the adapter
MUTATING = ("pissa", "olora")


class Lora(Config):
    """Low-rank adapters (https://arxiv.org/abs/2106.09685), modules and file format by peft."""

    known_as = {
        "r": "rank",
        "lora_alpha": "alpha",
        "lora_dropout": "dropout",
        "target_modules": "modules",
        "lora_target": "modules",
    }

    kind: Literal["lora"] = "lora"
    path: Annotated[str, Refers(("Checkpoint",))] | None = None
    """An adapter to go on with: a stage or a checkpoint with `adapter/` in it, a folder of peft's, a hub name. What it is like is
    read from its adapter_config.json; keys that are said beside `path` must agree with that (dropout and rates may differ)."""
    rank: int = Field(default=8, gt=0)
    """Rank of the two matrices."""
    alpha: int | float = 16
    """Scale; the update is multiplied by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout on the adapter's input."""
    modules: str | list[str] = "all-linear"
    """Layers that get an adapter, by name, by a regex over whole names, or all linear ones (peft's target_modules)."""
    exclude_modules: str | list[str] = []
    """Layers of these that get none, by name or by a regex."""
    target_parameters: list[str] = []
    """Tensors that get an adapter, by name: experts that lie in one tensor (`mlp.experts.gate_up_proj`)."""
    layers_to_transform: list[int] = []
    """Numbers of the blocks whose layers get adapters; all where it is empty."""
    modules_to_save: list[str] = []
    """Modules that are trained whole and stored with the adapter, by name: `lm_head`, `embed_tokens`, `score`."""
    trainable_token_indices: list[int] = []
    """Ids of tokens whose rows in the embedding and the output layer are trained; rows of `new_tokens` are by themselves."""
    use_rslora: bool = False
    """Multiply the update by alpha / sqrt(rank) instead: large ranks keep learning (https://arxiv.org/abs/2312.03732)."""
    use_dora: bool = False
    """Train the norm of each matrix row apart from its direction (https://arxiv.org/abs/2402.09353). Better at low ranks; each
    pass computes the norms of whole matrices, so it is slower."""
    init_lora_weights: bool | str = True
    """How the two matrices begin: true (B is zero), `gaussian`, `orthogonal`, `olora`, `pissa` (first singular vectors of the
    base, https://arxiv.org/abs/2404.02948) or `pissa_niter_16` (the same, faster). What is stored stands beside the unchanged
    base."""
    rank_pattern: dict[str, int] = {}
    """Other ranks for some layers, by name or regex."""
    alpha_pattern: dict[str, int | float] = {}
    """Other scales for some layers, by name or regex."""
    loraplus_lr_ratio: float = Field(default=1.0, ge=1)
    """Learning rate of the B matrices over that of the A matrices (LoRA+, https://arxiv.org/abs/2402.12354)."""
    loraplus_lr_embedding: float = Field(default=1e-6, gt=0)
    """Learning rate of adapters beside embeddings, where `loraplus_lr_ratio` is above 1."""

    @field_validator("init_lora_weights")
    @classmethod
    def _known_start(cls, value: bool | str) -> bool | str:
        first, _, count = str(value).partition("_niter_")
        if value is not True and (first not in ("gaussian", "orthogonal", *MUTATING) or (count and first != "pissa")):
            raise ValueError('one of true, "gaussian", "orthogonal", "olora", "pissa", "pissa_niter_16"')
        if count and not count.isdigit():
            raise ValueError('"pissa_niter_16": a number of iterations')
        return value

    @property
    def mutates_base(self) -> bool:
        """Whether the model without its adapter is another one than the base."""
        return str(self.init_lora_weights).startswith(MUTATING)

    def no_live_reference(self) -> str | None:
        """Why the model without its adapter is not what training begins with; None where it is."""
        if self.path:
            return "the reference would be the model without its adapter, and training begins with that of adapter.path"
        if self.mutates_base:
            return (
                f"the reference would be the model without its adapter, and init_lora_weights = {self.init_lora_weights!r} "
                "changes the model below it"
            )
        return None

    def opened(self, address: str, model: str) -> Self:
        """This card as the adapter at `address` is, which becomes its `path`.

        Args:
            model: address of the weights that it will stand beside.

        Raises:
            ArtifactError: there is no adapter.
            ConfigError: it is of another kind, beside other weights, or not as this card says.
        """
        check_base(address, model)
        found = fields_of(address)
        free = {"kind", "path", "dropout", "loraplus_lr_ratio", "loraplus_lr_embedding"}
        read = type(self)(**{**found, "path": address})
        said = {name for name in self.model_fields_set - free if getattr(self, name) != getattr(read, name)}
        if said:
            shown = [f"{name} = {getattr(read, name)!r}, not {getattr(self, name)!r}" for name in sorted(said)]
            raise ConfigError(f"the adapter has {'; '.join(shown)}", where=address, next=f"drop {', '.join(sorted(said))}")
        chosen = {name: getattr(self, name) for name in self.model_fields_set & (free - {"path"})}
        return read.model_copy(update=chosen)

    features: ClassVar[tuple[str, ...]] = ()
    """Names of what it brings into the support matrix, beside `adapter`."""
    takes_4bit: ClassVar[bool] = False
    """Whether it may stand beside weights that bitsandbytes stored in 4 bits."""

    def load_base(self, path: str, dtype: str, value_head: bool = False) -> torch.nn.Module:
        """The model that the adapter will stand beside, see `raylm.model.load.load_model`.

        Args:
            dtype: of its weights, which are frozen: that of compute.
            value_head: it may be a reward model too.
        """
        return load_model(path, dtype, plain=True, value_head=value_head)

    def attach(self, model: Any, seed: int) -> Any:
        """A peft model over `model`; only the adapters are trainable. Equal seeds give equal adapters on every rank.

        Raises:
            ConfigError: `modules` names nothing, or what cannot have an adapter.
        """
        import torch
        from peft import get_peft_model

        plain: Any = model
        if self.mutates_base and self.target_parameters:
            raise not_mutable(self, ", ".join(self.target_parameters))
        if not self.path:
            # an adapter from elsewhere may use names of other versions, which peft knows
            check_names(self, model)
        elif getattr(plain, "new_token_ids", None) and not self.trainable_token_indices:
            raise ConfigError(
                "the adapter trains no rows for the new tokens", where=self.path, next="merge it first, then train a new adapter"
            )
        head, layers = plain.get_output_embeddings(), ", ".join(linear_layers(model)) or "this model has none"
        torch.manual_seed(seed)
        try:
            made = get_peft_model(model, self.peft_config(kind_of_model(model.config), model))
        except (TypeError, ValueError) as cause:
            raise ConfigError(
                f"peft makes no adapters of this model: {str(cause).splitlines()[0]}",
                where=f"adapter.modules = {self.modules!r}",
                next=f"name linear layers in `modules`: {layers}",
            ) from cause
        if self.mutates_base:
            made.start = Start((n, p.detach().to("cpu", copy=True)) for n, p in made.named_parameters() if ".lora_" in n)
        if self.path:
            load_into(made, self.path)
        return self.finished(made, head, layers)

    def finished(self, made: Any, head: Any, layers: str) -> Any:
        """`made`, a peft model, checked and with what merging and saving need later.

        Args:
            head: the output layer, as it was before.
            layers: names of linear layers, for the reader.
        """
        import torch

        check_made(self, made, head, layers)
        for p in made.parameters():
            # peft leaves whole modules and rows of tokens in the base's dtype: in bfloat16 small updates would vanish
            if p.requires_grad and p.dtype != torch.float32:
                p.data = p.data.float()
        made.adapted = adapted_layers(made)
        return made

    def peft_config(self, kind: str | None = "causal", model: Any = None) -> Any:
        """This card as peft's LoraConfig.

        Args:
            kind: of the model, see `raylm.model.load.kind_of_model`.
            model: what it is for, where it has rows for new tokens.
        """
        from peft import LoraConfig

        fields = ("exclude_modules", "target_parameters", "layers_to_transform")
        options: dict[str, Any] = {name: getattr(self, name) or None for name in fields}
        # peft takes blocks beside names alone
        every = model is not None and self.layers_to_transform and self.modules == "all-linear"
        return LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,  # pyright: ignore[reportArgumentType]
            lora_dropout=self.dropout,
            target_modules=linear_layers(model) if every else self.modules,
            use_rslora=self.use_rslora,
            use_dora=self.use_dora,
            init_lora_weights=self.init_lora_weights,  # pyright: ignore[reportArgumentType]
            rank_pattern=dict(self.rank_pattern),
            alpha_pattern=dict(self.alpha_pattern),
            task_type=TASKS.get(kind or ""),
            **options,
            **self._ends(model),
        )

    def _ends(self, model: Any) -> dict[str, Any]:
        """What is trained of embedding and output layer, as options of LoraConfig. Tied ones stay tied."""
        saved, tokens = list(self.modules_to_save), list(self.trainable_token_indices)
        if model is None:
            return {"modules_to_save": saved or None}
        tokens = sorted({*tokens, *getattr(model, "new_token_ids", ())})
        ends = {id(model.get_input_embeddings()): "in", id(model.get_output_embeddings()): "out"}
        names = {ends[id(module)]: name for name, module in model.named_modules() if id(module) in ends}
        if "out" in names and model.get_output_embeddings().weight.shape[0] != model.get_input_embeddings().weight.shape[0]:
            # a value head has no rows of tokens
            del names["out"]
        tied = "out" in names and model.get_output_embeddings().weight is model.get_input_embeddings().weight
        whole = [end for end, name in names.items() if any(name == part or name.endswith(f".{part}") for part in saved)]
        if tied and whole:
            saved = [part for part in saved if not f".{names['out']}".endswith(f".{part}")]
            saved += [] if "in" in whole else [names["in"].rsplit(".", 1)[-1]]
        # a matrix that is trained whole needs no rows apart
        rows = {} if tied and whole else {name: tokens for end, name in names.items() if end not in whole}
        return {
            "modules_to_save": saved or None,
            "ensure_weight_tying": bool(tied and whole),
            "trainable_token_indices": (rows or None) if tokens else None,
        }

    def merge(
        self, model: Any, weights: Iterable[tuple[str, torch.Tensor]], adapters: dict[str, torch.Tensor] | None = None
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """Plain weights in the base model's names, one after the other, each adapter merged into its layer by peft.

        Args:
            model: what `attach` returned; its own tensors may be sharded.
            weights: its full state, as `Engine.stream` returns it.
            adapters: filled with the adapters' tensors, for `save`.

        Raises:
            TrainingError: an adapter holds values that are not finite.
        """
        return merged(model.adapted, weights, {} if adapters is None else adapters, self.fold)

    def fold(self, layer: Any, parts: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """See `raylm.model.adapters.merging.fold`."""
        return fold(layer, parts)

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
        named = get_peft_model_state_dict(model, state_dict=adapters, save_embedding_layers=False)
        if hasattr(model, "start"):
            made, named = as_plain_lora(model, made, named)
        for name in ("target_modules", "exclude_modules", "target_parameters"):
            if isinstance(value := getattr(made, name), (set, list)):
                # a set: its order would differ from run to run
                setattr(made, name, sorted(value))
        made.save_pretrained(str(folder))
        tensors: dict[str, torch.Tensor] = {}
        for name, tensor in named.items():
            # a file holds no tensor under two names, as tied ones have
            shared = any(tensor.data_ptr() == other.data_ptr() for other in tensors.values())
            tensors[name] = tensor.cpu().contiguous().clone() if shared else tensor.cpu().contiguous()
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
