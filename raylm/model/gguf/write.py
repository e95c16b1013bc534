"""Writes a checkpoint of Hugging Face's layout as one GGUF file; one tensor is held at a time.

config.json --> architecture, fields     tokenizer.json --> vocabulary     safetensors --> rows in ggml's types
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from raylm.core.errors import ArtifactError, ConfigError
from raylm.model.gguf.architectures import Architecture, Piece, architecture_of, rope_of
from raylm.model.gguf.lineage import lineage
from raylm.model.gguf.types import FILE_TYPES, Chosen, choose, encode, row_bytes
from raylm.model.gguf.vocabulary import notes, vocabulary

if TYPE_CHECKING:
    import numpy as np

QUANTIZATION_VERSION = 2
# llama.cpp opens no file without it, and stops at the file's end
IGNORED = ("lm_head.weight", ".attn.bias", ".attn.masked_bias", "rotary_emb.inv_freq")


class Wrote(NamedTuple):
    """What came out."""

    num_parameters: int
    types: dict[str, int]
    """Parameters by type."""
    fallbacks: dict[str, str]
    """`Q4_K -> Q5_0`: the tensors whose width is no multiple of what the dtype wants, by their number and width."""
    notes: list[str]
    """What the programs that read it do otherwise, in words."""

    def bits(self) -> float:
        """Mean bits of a weight."""
        sizes = {kind: 8 * row_bytes(kind, 256) / 256 for kind in self.types}
        return sum(sizes[kind] * count for kind, count in self.types.items()) / max(self.num_parameters, 1)


def write_gguf(
    folder: Path, file: Path, dtype: str, licence: str | None = None, changes: Mapping[str, Any] | None = None
) -> Wrote:
    """Write the checkpoint in the local `folder` to `file`.

    Args:
        dtype: f32, f16, bf16, q8_0, q4_0 or q4_k_m; vectors stay in float32.
        changes: metadata in place of what is made here; None as a value leaves a key out.

    Raises:
        ConfigError: llama.cpp has no such network or tokenizer, or the weights are quantized already.
        ArtifactError: tensors are missing, or of no known place.
    """
    import gguf
    import numpy as np

    from raylm.model.checkpoint import end_tokens
    from raylm.model.load import load_config, load_tokenizer
    from raylm.model.megatron.stored import Stored

    config: dict[str, Any] = load_config(str(folder)).to_dict()
    check_source(config, str(folder))
    architecture = architecture_of(config, str(folder))
    tokenizer = load_tokenizer(str(folder))
    fields = {f"{architecture.name}.{key}": value for key, value in architecture.fields(config).items()}
    fields |= vocabulary(tokenizer, config["vocab_size"], end_tokens(folder, tokenizer), str(folder))
    fields |= {**lineage(folder, licence), "general.file_type": FILE_TYPES[dtype]}
    fields |= {"general.quantization_version": QUANTIZATION_VERSION}
    stored = Stored(folder)
    names, plan = _planned(architecture, config, stored, dtype)
    stored.check(names.values(), [name for name in stored.names() if name.endswith(IGNORED)])
    factors = _rope_factors(config)
    writer = gguf.GGUFWriter(None, architecture.name)
    for key, value in {**fields, **(changes or {})}.items():
        _add(writer, key, value)
    if factors is not None:
        writer.add_tensor_info("rope_freqs.weight", factors.shape, factors.dtype, factors.nbytes)
    for piece, shape, chosen in plan:
        size = prod(shape[:-1]) * row_bytes(chosen.name, shape[-1])
        # shapes of quantized tensors are told in values, whatever their bytes
        writer.add_tensor_info(piece.name, shape, np.dtype(np.float32), size, gguf.GGMLQuantizationType[chosen.name])
    writer.write_header_to_file(file)
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    if factors is not None:
        writer.write_tensor_data(factors)
    for piece, shape, chosen in plan:
        found = [_read(stored, names[name]) for name in piece.sources]
        values = np.stack(found) if len(found) > 1 else found[0]
        writer.write_tensor_data(encode(_changed(piece, values).reshape(shape), chosen.name, piece.name))
    writer.close()
    return _told(plan, notes(tokenizer))


def types_of(folder: Path, dtype: str) -> dict[str, tuple[str, bool]]:
    """Of each matrix that `write_gguf` rounds, by its name in the checkpoint: its type, and whether it is turned for that."""
    from raylm.model.load import load_config
    from raylm.model.megatron.stored import Stored

    config: dict[str, Any] = load_config(str(folder)).to_dict()
    names, plan = _planned(architecture_of(config, str(folder)), config, Stored(folder), dtype)
    rounded = [(piece, chosen) for piece, _, chosen in plan if chosen.name != "F32"]
    return {names[name]: (chosen.name, piece.change == "transpose") for piece, chosen in rounded for name in piece.sources}


def _planned(
    architecture: Architecture, config: dict[str, Any], stored: Any, dtype: str
) -> tuple[dict[str, str], list[tuple[Piece, tuple[int, ...], Chosen]]]:
    """Names in the checkpoint, by what the pieces call them; each piece with its shape and type in the file."""
    pieces = list(architecture.pieces(config))
    names = {name: _as_stored(name, stored) for piece in pieces for name in piece.sources}
    tied = not any(piece.name == "output.weight" for piece in pieces)
    layers = architecture.fields(config)["block_count"]
    plan = []
    for piece in pieces:
        shape = _shape(piece, stored.shape(names[piece.sources[0]]))
        plan.append((piece, shape, choose(piece.name, shape, dtype, layers, tied)))
    return names, plan


def check_source(config: dict[str, Any], where: str) -> None:
    """Raises ConfigError where the weights are quantized, or part of a model that sees or hears."""
    from raylm.model.preflight import quantization_of

    if (said := quantization_of(config)) is not None:
        raise ConfigError(
            f"these weights are quantized ({said.get('quant_method', 'unknown method')}): rounded twice they are another model",
            where=where,
            next="export the weights they were made from, with --dtype q8_0, q4_k_m or q4_0",
        )


def _as_stored(name: str, stored: Any) -> str:
    """A checkpoint of the base class has no prefix."""
    known, bare = stored.names(), name.partition(".")[2]
    return bare if name not in known and bare in known else name


def _read(stored: Any, name: str) -> np.ndarray:
    return stored.read(name).float().numpy()


def _shape(piece: Piece, shape: tuple[int, ...]) -> tuple[int, ...]:
    if piece.change == "transpose":
        shape = shape[::-1]
    if piece.change == "flat":
        shape = tuple(size for size in shape if size != 1)
    return (len(piece.sources), *shape) if len(piece.sources) > 1 else tuple(shape)


def _changed(piece: Piece, values: np.ndarray) -> np.ndarray:
    if piece.change == "transpose":
        return values.T
    if piece.change == "permute":
        # transformers turns the halves of a head, llama.cpp pairs of neighbours
        half = values.shape[0] // piece.heads // 2
        return values.reshape(piece.heads, 2, half, *values.shape[1:]).swapaxes(1, 2)
    return values


def _rope_factors(config: dict[str, Any]) -> np.ndarray | None:
    """What Llama 3.1 divides the frequencies by: those of long waves by `factor`, short ones not at all, others in between
    (https://github.com/meta-llama/llama-models, models/llama3/model.py)."""
    import numpy as np

    rope = rope_of(config) if "hidden_size" in config else {}
    if rope.get("rope_type") != "llama3":
        return None
    from raylm.model.gguf.architectures import head_size

    size = head_size(config)
    waves = 2 * np.pi * float(rope["rope_theta"]) ** (np.arange(0, size, 2, dtype=np.float64) / size)
    before, low, high = rope["original_max_position_embeddings"], rope["low_freq_factor"], rope["high_freq_factor"]
    smooth = np.clip((before / waves - low) / (high - low), 0.0, 1.0)
    return (1 / ((1 - smooth) / rope["factor"] + smooth)).astype(np.float32)


def _add(writer: Any, key: str, value: Any) -> None:
    from gguf import GGUFValueType

    if value is None:
        return
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, list):
        kind = {int: GGUFValueType.INT32, float: GGUFValueType.FLOAT32, str: GGUFValueType.STRING}[type(value[0])]
        writer.add_key_value(key, value, GGUFValueType.ARRAY, sub_type=kind)
    else:
        writer.add_string(key, str(value))


def _told(plan: list[tuple[Piece, tuple[int, ...], Chosen]], said: list[str]) -> Wrote:
    types, replaced = Counter[str](), Counter[tuple[str, str, int]]()
    for _, shape, chosen in plan:
        types[chosen.name] += prod(shape)
        if chosen.instead_of:
            replaced[chosen.instead_of, chosen.name, shape[-1]] += 1
    fallbacks: dict[str, str] = {}
    for (wanted, found, width), count in replaced.items():
        key, words = f"{wanted} -> {found}", f"{count} tensors of width {width}"
        fallbacks[key] = f"{fallbacks[key]}, {words}" if key in fallbacks else words
    return Wrote(types.total(), dict(types), fallbacks, said)


def check_written(file: Path) -> None:
    """Raises ArtifactError where the gguf package does not read the file to its end."""
    import gguf

    read = gguf.GGUFReader(file)
    last = max(read.tensors, key=lambda tensor: tensor.data_offset)
    if last.data_offset + last.n_bytes > file.stat().st_size:
        raise ArtifactError(f"the file ends within {last.name}", where=str(file))
