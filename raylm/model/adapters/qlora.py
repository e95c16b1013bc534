"""QLoRA: LoRA beside a base whose matrices are stored in 4 bits (https://arxiv.org/abs/2305.14314)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from pydantic import field_validator

from raylm.model.adapters.checks import check_names
from raylm.model.adapters.lora import MUTATING, Lora
from raylm.model.adapters.merging import PEFT

if TYPE_CHECKING:
    import torch

    from raylm.model.linear_4bit import Quantization


QUANTIZED_BASE = "quantized_base.json"
"""Beside an adapter: what it stands beside."""


class QuantizedBase(NamedTuple):
    """The base of an adapter that was trained beside 4 bits."""

    name: str
    quant_type: str
    double_quant: bool
    dtype: str
    """Of the weights when they were rounded."""
    layers: tuple[str, ...]
    """Names of the matrices that were."""

    def rounded(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor of the stored base as the adapter knows it: a matrix that was put into 4 bits as what these stand for."""
        import torch

        from raylm.model.linear_4bit import Quantization

        if name not in self.layers:
            return tensor
        how = Quantization(self.quant_type, self.double_quant)
        height, width = tensor.shape
        return how.unpack(how.pack(tensor.to(getattr(torch, self.dtype))), (height, width), torch.float32)


def quantized_base(adapter: Path) -> QuantizedBase | None:
    """What the adapter in the local folder `adapter` stands beside; None of one beside plain weights, or by another library."""
    file = adapter / QUANTIZED_BASE
    if not file.is_file():
        return None
    said = json.loads(file.read_text())
    how = said["quantization_config"]
    twice = bool(how["bnb_4bit_use_double_quant"])
    return QuantizedBase(said["base_model_name_or_path"], how["bnb_4bit_quant_type"], twice, said["dtype"], tuple(said["layers"]))


class Qlora(Lora):
    """LoRA beside a base in 4 bits: the linear layers of the blocks by bitsandbytes; embeddings, output layer, norms, routers and
    stacked experts stay as they are. It is merged into what the 4 bits stand for, which is what it learned beside: into the
    original matrices it would not fit."""

    kind: Literal["qlora"] = "qlora"
    quant_type: Literal["nf4", "fp4"] = "nf4"
    """Levels of the 16 values: for normally distributed weights, or a float of 4 bits."""
    double_quant: bool = True
    """Store the scales of 64 weights each in 8 bits too, in place of 32: 0.37 bits less for each weight."""

    @field_validator("init_lora_weights")
    @classmethod
    def _base_stays(cls, value: bool | str) -> bool | str:
        if str(value).startswith(MUTATING):
            raise ValueError(f"{value} takes a part out of the base's matrices, which would have to be rounded anew: set true")
        return value

    features: ClassVar[tuple[str, ...]] = ("qlora",)
    takes_4bit: ClassVar[bool] = True

    def load_base(self, path: str, dtype: str, value_head: bool = False) -> torch.nn.Module:
        """The model at `path`, each matrix rounded as it is read: no more than a few are there in full.

        Raises:
            ConfigError: its own quantization is none that this card knows, or another one than this card says.
        """
        from raylm.model.load_4bit import load_4bit

        return load_4bit(path, dtype, self.quantization(), value_head)

    def attach(self, model: Any, seed: int) -> Any:
        """As `Lora.attach`; matrices that are not in 4 bits yet (of a new model) are put into these first.

        Raises:
            ConfigError: nothing of the model can be put into 4 bits.
        """
        from raylm.model.linear_4bit import layers_of, quantize_layers
        from raylm.model.load_4bit import quantizable

        if not layers_of(model):
            check_names(self, model)
            quantize_layers(model, quantizable(model), self.quantization())
        return super().attach(model, seed)

    def save(self, model: Any, adapters: dict[str, torch.Tensor], base: str, folder: Path) -> None:
        """As `Lora.save`, and beside it what the base was rounded to: merged into another one, the adapter does not fit."""
        from raylm.model.linear_4bit import layers_of

        super().save(model, adapters, base, folder)
        names = sorted(name.removeprefix(PEFT).replace(".base_layer.", ".") for name in layers_of(model))
        dtype = next(p.dtype for name, p in model.named_parameters() if p.is_floating_point() and not p.requires_grad)
        how = {
            "quant_method": "bitsandbytes",
            "load_in_4bit": True,
            "bnb_4bit_quant_type": self.quant_type,
            "bnb_4bit_use_double_quant": self.double_quant,
        }
        said = {"base_model_name_or_path": base, "dtype": str(dtype).removeprefix("torch."), "quantization_config": how}
        (folder / QUANTIZED_BASE).write_text(json.dumps({**said, "layers": names}, indent=2) + "\n")

    def in_words(self, model: Any) -> str:
        """What of the base is in 4 bits, and which matrices are not; for people."""
        from raylm.model.linear_4bit import layers_of

        layers = layers_of(model)
        size = sum(layer.weight.nbytes for layer in layers.values())
        full = {
            name.removesuffix(".weight").rsplit(".", 1)[-1]: p.dtype
            for name, p in model.named_parameters()
            if name not in layers and p.dim() > 1 and not p.requires_grad
        }
        rest = ", ".join(f"{name} ({str(dtype).removeprefix('torch.')})" for name, dtype in sorted(full.items()))
        return f"{len(layers)} matrices of the base are stored in {self.quant_type}, {size / 1e9:.3g} GB; not in 4 bits: {rest}"

    @property
    def stored_bytes(self) -> float:
        """Bytes of a weight that is put into 4 bits, with its share of the scales."""
        return 0.5 + ((1 + 4 / 256) / 64 if self.double_quant else 4 / 64)

    def quantization(self) -> Quantization:
        """How matrices are stored."""
        from raylm.model.linear_4bit import Quantization

        return Quantization(self.quant_type, self.double_quant)
