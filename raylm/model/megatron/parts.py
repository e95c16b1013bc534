"""The tensors of a Megatron checkpoint: name, sources in Hugging Face's layout, sharding.

Names are those of megatron-core's GPTModel (https://github.com/NVIDIA/Megatron-LM, megatron/core/models/gpt). In
`linear_qkv` each query group's queries stand before its key and its value; `linear_fc1` is all of the gate, then all of up;
a tensor rank's part of it is its share of each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch

    from raylm.model.megatron.shape import Shape

FIRST_NORM = ("self_attention.linear_qkv.layer_norm_weight", "input_layernorm.weight")
SECOND_NORM = ("mlp.linear_fc1.layer_norm_weight", "pre_mlp_layernorm.weight")


class Part(NamedTuple):
    """One tensor before it is cut over ranks."""

    names: tuple[str, str]
    """Its name by Transformer Engine's spec and by the local one; inside a block it counts from there, an expert's from its
    list on."""
    sources: tuple[str, ...]
    cut: str
    """`whole` on every tensor rank; `rows`, `qkv` and `vocab` cut their first dimension, `columns` the second, `gated` both
    halves of the first."""
    layer: int | None = None
    expert: int | None = None


def parts_of(shape: Shape) -> list[Part]:
    """All tensors, block after block; a tied output layer is none."""
    found = [_outer("embedding.word_embeddings.weight", "model.embed_tokens.weight", "vocab")]
    for layer in range(shape.layers):
        found += _block(shape, layer)
    found.append(_outer("decoder.final_layernorm.weight", "model.norm.weight", "whole"))
    if not shape.tied:
        found.append(_outer("output_layer.weight", "lm_head.weight", "vocab"))
    return found


def _outer(name: str, source: str, cut: str) -> Part:
    return Part((name, name), (source,), cut)


def _block(shape: Shape, layer: int) -> list[Part]:
    at = f"model.layers.{layer}"

    def part(names: str | tuple[str, str], cut: str, *sources: str) -> Part:
        both = (names, names) if isinstance(names, str) else names
        return Part(both, tuple(f"{at}.{source}" for source in sources), cut, layer)

    attention = [
        part(FIRST_NORM, "whole", "input_layernorm.weight"),
        part("self_attention.linear_qkv.weight", "qkv", *(f"self_attn.{one}_proj.weight" for one in "qkv")),
        part("self_attention.linear_proj.weight", "columns", "self_attn.o_proj.weight"),
    ]
    if shape.qkv_bias:
        attention.append(part("self_attention.linear_qkv.bias", "qkv", *(f"self_attn.{one}_proj.bias" for one in "qkv")))
    if shape.qk_norm:
        attention += [part(f"self_attention.{o}_layernorm.weight", "whole", f"self_attn.{o}_norm.weight") for o in "qk"]
    if not shape.sparse[layer]:
        return [
            *attention,
            part(SECOND_NORM, "whole", "post_attention_layernorm.weight"),
            part("mlp.linear_fc1.weight", "gated", "mlp.gate_proj.weight", "mlp.up_proj.weight"),
            part("mlp.linear_fc2.weight", "columns", "mlp.down_proj.weight"),
        ]
    feed = [
        part(SECOND_NORM[1], "whole", "post_attention_layernorm.weight"),
        part("mlp.router.weight", "whole", "mlp.gate.weight"),
    ]
    for expert in range(shape.experts):
        own = f"mlp.experts.{expert}"
        one = part("linear_fc1.weight", "gated", f"{own}.gate_proj.weight", f"{own}.up_proj.weight")
        two = part("linear_fc2.weight", "columns", f"{own}.down_proj.weight")
        feed += [one._replace(expert=expert), two._replace(expert=expert)]
    return [*attention, *feed]


def join(part: Part, tensors: list[torch.Tensor], shape: Shape) -> torch.Tensor:
    """Tensors of Hugging Face as the whole one of Megatron."""
    import torch

    if part.cut == "gated":
        return torch.cat(tensors)
    if part.cut != "qkv":
        return tensors[0]
    rest = tensors[0].shape[1:]
    groups = [one.view(shape.groups, one.shape[0] // shape.groups, *rest) for one in tensors]
    return torch.cat(groups, dim=1).flatten(0, 1)


def split(part: Part, whole: torch.Tensor, shape: Shape) -> dict[str, torch.Tensor]:
    """The inverse of `join`, by name; rows that pad the vocabulary are dropped."""
    if part.cut == "vocab":
        return {part.sources[0]: whole[: shape.vocab]}
    if part.cut == "gated":
        return dict(zip(part.sources, whole.chunk(2), strict=True))
    if part.cut != "qkv":
        return {part.sources[0]: whole}
    each = shape.heads // shape.groups
    size = whole.shape[0] // (shape.groups * (each + 2))
    groups = whole.view(shape.groups, (each + 2) * size, *whole.shape[1:])
    return {
        source: one.flatten(0, 1)
        for source, one in zip(part.sources, groups.split([each * size, size, size], dim=1), strict=True)
    }


def cut(part: Part, whole: torch.Tensor, tensor: int, rank: int, padded: int) -> torch.Tensor:
    """What tensor rank `rank` of `tensor` holds; the vocabulary is padded with zeros to `padded` rows."""
    import torch

    if part.cut == "vocab":
        whole = torch.nn.functional.pad(whole, (0, 0, 0, padded - whole.shape[0]))
    if part.cut == "whole":
        own = whole
    elif part.cut == "columns":
        own = whole.chunk(tensor, dim=1)[rank]
    elif part.cut == "gated":
        own = torch.cat([half.chunk(tensor)[rank] for half in whole.chunk(2)])
    else:
        own = whole.chunk(tensor)[rank]
    # torch.save writes all memory that a view looks into
    return own.clone(memory_format=torch.contiguous_format)


def uncut(part: Part, pieces: list[torch.Tensor]) -> torch.Tensor:
    """The inverse of `cut`, with the padded vocabulary."""
    import torch

    if part.cut == "whole" or len(pieces) == 1:
        return pieces[0]
    if part.cut == "columns":
        return torch.cat(pieces, dim=1)
    if part.cut == "gated":
        halves = [piece.chunk(2) for piece in pieces]
        return torch.cat([half[0] for half in halves] + [half[1] for half in halves])
    return torch.cat(pieces)
