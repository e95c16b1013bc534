"""Which type each tensor of a GGUF file has, and its bytes.

matrix [rows, width] -> type by the file's dtype and the tensor's part -> one that the width allows -> bytes, row after row
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from raylm.core.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np

Dtype = Literal["f32", "f16", "bf16", "q8_0", "q4_0", "q4_k_m"]

FILE_TYPES: dict[str, int] = {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 7, "q4_k_m": 15, "bf16": 32}
"""general.file_type."""
MATRIX = {"f32": "F32", "f16": "F16", "bf16": "BF16", "q8_0": "Q8_0", "q4_0": "Q4_0", "q4_k_m": "Q4_K"}
# what a type is replaced by where a row is no multiple of its block, as llama.cpp does
NARROW = {"Q4_K": "Q5_0", "Q6_K": "Q8_0", "Q4_0": "F16", "Q5_0": "F16", "Q8_0": "F16"}
# they steer the rest, and are small: kept in float32
WHOLE = ("ffn_gate_inp", "position_embd", "rope_freqs", "_norm")


class Chosen(NamedTuple):
    """The type of a tensor."""

    name: str
    """As gguf.GGMLQuantizationType calls it."""
    instead_of: str = ""
    """What it would be if its width allowed that."""


def choose(name: str, shape: tuple[int, ...], dtype: str, num_layers: int, tied: bool) -> Chosen:
    """The type of a tensor of a file of this dtype.

    Args:
        name: in the file.
        shape: as stored: [..., width].
        tied: the embedding is the output head, too.
    """
    part = name.removesuffix(".weight")
    if len(shape) < 2 or not name.endswith(".weight") or any(each in part for each in WHOLE):
        return Chosen("F32")
    wanted = MATRIX[dtype]
    if dtype in ("q4_0", "q4_k_m") and (part == "output" or (tied and part == "token_embd")):
        wanted = "Q6_K"
    elif dtype == "q4_k_m" and part.endswith((".attn_v", ".ffn_down", ".ffn_down_exps", ".ffn_down_shexp")):
        wanted = "Q6_K" if _more_bits(int(name.split(".")[1]), num_layers) else wanted
    found = wanted
    while shape[-1] % _block(found)[0]:
        found = NARROW[found]
    return Chosen(found, wanted if found != wanted else "")


def _more_bits(layer: int, num_layers: int) -> bool:
    """Layers whose values and second feed-forward matrices Q4_K_M keeps in 6 bits: first and last eighth, and every third."""
    eighth = num_layers // 8
    return layer < eighth or layer >= 7 * num_layers // 8 or (layer - eighth) % 3 == 2


def row_bytes(kind: str, width: int) -> int:
    """Bytes of a row of `width` values."""
    block, size = _block(kind)
    return width // block * size


def _block(kind: str) -> tuple[int, int]:
    import gguf

    return gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]


def encode(values: np.ndarray, kind: str, name: str = "") -> np.ndarray:
    """float32[..., width] as the type `kind`: float32, float16, or bytes [..., bytes of a row].

    Raises:
        ConfigError: values that are not finite, or that float16 cannot hold.
    """
    import gguf
    import numpy as np

    if not np.isfinite(values).all():
        raise ConfigError(f"{name} has values that are not finite", next="export a checkpoint from before that")
    if kind == "F32":
        return np.ascontiguousarray(values, np.float32)
    if kind == "F16" and np.abs(values).max(initial=0) > np.finfo(np.float16).max:
        raise ConfigError(f"{name} has values that float16 cannot hold", next="--dtype bf16 or f32")
    if kind == "F16":
        return values.astype(np.float16)
    tensor = gguf.GGMLQuantizationType[kind]
    if kind in ("Q8_0", "Q4_0", "Q5_0", "BF16"):
        return gguf.quantize(np.ascontiguousarray(values, np.float32), tensor)
    from raylm.model.gguf.ggml_private import quantize

    flat = values.reshape(-1, values.shape[-1])
    return quantize(flat, int(tensor), row_bytes(kind, values.shape[-1])).reshape(*values.shape[:-1], -1)
