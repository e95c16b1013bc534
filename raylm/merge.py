"""`raylm merge`: folds a peft adapter into the model it stands beside; what comes of it is compared before it is written.

base, one tensor at a time --> with its adapter, in float32 --> once rounded, to the base's dtype --> OUT
base + adapter, base merged: log-probabilities of the same tokens must agree, or OUT stays empty

An adapter that was trained beside 4 bits (`quantized_base.json` lies beside it) is folded into what these stand for.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from raylm.core.errors import ArtifactError, ConfigError
from raylm.core.machine import free_memory
from raylm.core.storage import Folder
from raylm.model.adapters.qlora import quantized_base
from raylm.model.headers import ADAPTER, Stored, read_header, read_headers, read_json, usual_dtype
from raylm.model.preflight import check_plain
from raylm.trainer.check_export import CheckExport

if TYPE_CHECKING:
    import torch

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
SEQUENCES, TOKENS = 8, 128
"""What is compared."""
ROOM = 0.8
"""Part of free memory that a model may take."""
# what a stream of single matrices knows nothing of
PLAIN = {
    "bias": ("none",), "fan_in_fan_out": (False, None), "modules_to_save": (None, []), "layer_replication": (None,),
    "trainable_token_indices": (None,), "target_parameters": (None, []), "alora_invocation_tokens": (None,),
    "lora_bias": (False, None),
}  # fmt: skip


class Merged(NamedTuple):
    """What came of a merge."""

    changed: int
    """Tensors that are not the base's."""
    dtype: str
    streamed: bool
    check: Check | None
    """What was compared."""


def run(arguments: argparse.Namespace) -> int:
    """Merge, and say what changed and by how much."""
    out = Folder(arguments.out)
    if out.files():
        raise ArtifactError("this folder is not empty", where=out.uri, next="name a new one")
    made = merge(arguments.adapter, arguments.base, out, arguments.dtype, arguments.max_nats, not arguments.unchecked)
    how = "a tensor at a time" if made.streamed else "whole"
    print(f"{made.changed} tensors merged ({how}), stored in {made.dtype}")
    if made.check is None:
        print("not compared with the unmerged model (--unchecked)")
    else:
        found = made.check
        print(
            f"log-probabilities of {found.num_tokens} tokens differ by {found.nats:.2g} on average (allowed: {found.allowed:g})"
        )
    print(f"next: name {arguments.out} as `model` of a train, rl, compress, evaluate or serve stage")
    return 0


def merge(
    adapter: str, base: str, out: Folder, dtype: str = "auto", max_nats: float | None = None, checked: bool = True
) -> Merged:
    """Fold `adapter` into `base`, written to `out` whole or not at all.

    Args:
        dtype: of the merged model's floats; auto: each as in the base.
        checked: compare before writing; both models are held in float32 for it, one after the other.

    Raises:
        ArtifactError: a folder is not what it should be; or the merged model says something else than the unmerged one.
        ConfigError: the base is quantized, or this machine cannot hold what must be held.
    """
    import torch

    from raylm.model.checkpoint import write_checkpoint
    from raylm.model.load import auto_class, load_config

    at, config, folder = adapter_folder(adapter), load_config(base), _folder(base)
    check_plain(config.to_dict(), base)
    stored, beside = read_headers(folder), read_header(at / WEIGHTS)
    with torch.device("meta"):
        plain: Any = auto_class(config).from_config(config)
    streams = can_stream(read_json(at / ADAPTER), beside, stored, plain)
    # of a train stage the adapter lies in a folder of its own, beside the tokenizer that may have more tokens than the base's
    own = (at, at.parent) if at.name == "adapter" else (at,)
    tokenizer = next((str(each) for each in own if (each / "tokenizer_config.json").is_file()), base)
    check, weights = None, streamed(folder, stored, at)
    if checked or not streams:
        _check_room(stored, base, streams)
        model = with_adapter(base, at)
        check = Check(model, tokenizer, out.uri, max_nats) if checked else None
        if not streams:
            _untie(model)
            model = model.merge_and_unload(safe_merge=True)
            config, weights = model.config, iter(model.state_dict().items())
        del model
    if dtype != "auto":
        weights = _cast(weights, getattr(torch, dtype))
    write_checkpoint(out, config, weights, tokenizer, extra=check, start=base, keep_dtypes=dtype == "auto")
    stored_in = str(usual_dtype(read_headers(Path(out.local()))))
    return Merged(len({name.partition(".lora_")[0] for name in beside}), stored_in, streams, check)


class Check:
    """Compares what a written folder says of some tokens with what the model with its adapter says.

    Args:
        model: with its adapter beside its layers.
        where: named in the error.
    """

    def __init__(self, model: Any, tokenizer: str, where: str, max_nats: float | None) -> None:
        self._tokens_BT, self._where, self._limit = some_tokens(tokenizer, model), where, CheckExport(max_nats=max_nats)
        self._before = logprobs(model, self._tokens_BT)
        self.num_tokens, self.nats, self.allowed = self._before.numel(), math.nan, math.nan

    def __call__(self, folder: Path) -> None:
        """Raises ArtifactError where they differ by more than is allowed."""
        from raylm.model.load import load_model

        stored = usual_dtype(read_headers(folder))
        self.nats = float((logprobs(load_model(str(folder), "float32"), self._tokens_BT) - self._before).abs().mean())
        self.allowed = self._limit.allowed("float32", stored)
        if not self.nats <= self.allowed:
            raise ArtifactError(
                f"the merged model differs from the model with its adapter: log-probabilities of {self.num_tokens} tokens by "
                f"{self.nats:.3g} on average, allowed are {self.allowed:g} (stored in {stored})",
                where=self._where,
                next="nothing was written: --dtype float32 rounds less, --max-nats allows more",
            )


def adapter_folder(adapter: str) -> Path:
    """The local folder of an adapter: itself, that of a train stage's, or what was fetched of a hub name."""
    from raylm.model.load import beside, on_this_machine

    at = Path(on_this_machine(adapter))
    for folder in (at, at / "adapter"):
        if (folder / ADAPTER).is_file():
            if not (folder / WEIGHTS).is_file():
                raise ArtifactError(f"there is no {WEIGHTS} beside {ADAPTER}: pickled weights are not read", where=str(folder))
            return folder
    if not at.is_dir() and "://" not in adapter:
        found = [beside(adapter, name) for name in (ADAPTER, WEIGHTS)]
        if found[0] and found[1]:
            return found[0].parent
    raise ArtifactError(f"no adapter is here: there is no {ADAPTER}", where=adapter, next="name a folder that peft wrote")


def can_stream(config: dict[str, Any], tensors: dict[str, Stored], stored: dict[str, Stored], plain: Any) -> bool:
    """Whether each adapter stands beside one stored matrix of its own, so that no model must be held."""
    if config.get("peft_type") != "LORA" or any(config.get(key, fine[0]) not in fine for key, fine in PLAIN.items()):
        return False
    tied = {*(plain.all_tied_weights_keys or {}), *(plain.all_tied_weights_keys or {}).values()}
    names = {f"{name.partition('.lora_')[0].removeprefix(PREFIX)}.weight" for name in tensors if ".lora_" in name}
    alone = all(name in stored and len(stored[name].shape) == 2 and name not in tied for name in names)
    whole = all(".lora_A." in name or ".lora_B." in name or ".lora_magnitude_vector" in name for name in tensors)
    return whole and alone and stored.keys() <= plain.state_dict().keys()


def streamed(base: Path, stored: dict[str, Stored], adapter: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """The base's tensors one after the other, those with an adapter merged in float32."""
    from peft import LoraConfig
    from safetensors import safe_open
    from safetensors.torch import load_file

    config, rounded = LoraConfig.from_pretrained(str(adapter)), quantized_base(adapter)
    beside: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in load_file(adapter / WEIGHTS).items():
        at, _, part = name.partition(".lora_")
        part = f"lora_{part.removesuffix('.weight')}.default.weight"
        beside.setdefault(at.removeprefix(PREFIX), {})[part] = tensor.float()
    files: dict[Path, list[str]] = {}
    for name, tensor in stored.items():
        files.setdefault(tensor.file, []).append(name)
    for file, names in files.items():
        with safe_open(file, framework="pt") as opened:
            for name in names:
                tensor, at = opened.get_tensor(name), name.removesuffix(".weight")
                tensor = rounded.rounded(name, tensor) if rounded else tensor
                yield name, _merged(at, tensor, beside[at], config) if at in beside else tensor


def _merged(at: str, matrix: torch.Tensor, parts: dict[str, torch.Tensor], config: Any) -> torch.Tensor:
    """One matrix with its adapter, float32, by a peft layer of these tensors alone."""
    import torch
    from peft.tuners.lora import Linear
    from peft.utils.other import get_pattern_key

    def of(patterns: dict[str, int], usual: int) -> int:
        return patterns.get(get_pattern_key(list(patterns), at), usual)

    height, width = matrix.shape
    rank, alpha = of(config.rank_pattern, config.r), of(config.alpha_pattern, config.lora_alpha)
    with torch.device("meta"):
        layer: Any = Linear(torch.nn.Linear(width, height, bias=False), "default", config=config, r=rank, lora_alpha=alpha)
    layer.load_state_dict({"base_layer.weight": matrix.float(), **parts}, assign=True)
    try:
        layer.merge(safe_merge=True)
    except ValueError as cause:
        raise ArtifactError(f"the adapter of {at} is not finite") from cause
    return layer.get_base_layer().weight.detach()


def with_adapter(base: str, adapter: Path) -> Any:
    """The base in float32 with the adapter beside its layers; a vocabulary that the adapter extends is extended."""
    from peft import PeftModel, get_peft_model_state_dict

    from raylm.model.load import load_model

    model: Any = load_model(base, "float32", plain=True)
    if rounded := quantized_base(adapter):
        for layer in rounded.layers:
            weight = model.get_parameter(layer)
            weight.data = rounded.rounded(layer, weight.detach())
    table = model.get_input_embeddings()
    name = next(name for name, module in model.named_modules() if module is table)
    rows = [tensor.shape[0] for key, tensor in read_header(adapter / WEIGHTS).items() if key.endswith(f"{name}.weight")]
    size = rows[0] if rows else _rows_needed(adapter, table.weight.shape[0])
    if size != table.weight.shape[0]:
        model.resize_token_embeddings(size, mean_resizing=False)
    wrong = "name the model that it was trained beside: adapter_config.json says base_model_name_or_path"
    try:
        made: Any = PeftModel.from_pretrained(model, str(adapter), torch_device="cpu").eval()
    except (KeyError, RuntimeError, ValueError) as cause:
        said = [line.strip() for line in str(cause).splitlines() if line.strip()]
        raise ArtifactError(
            f"peft cannot put this adapter beside {base}: {' '.join(said[:2])[:300]}", where=str(adapter), next=wrong
        ) from cause
    # peft passes over tensors that have no layer
    has, gets = set(get_peft_model_state_dict(made, save_embedding_layers=False)), set(read_header(adapter / WEIGHTS))
    if left := sorted(key for key in gets - has if ".base_layer." not in key and not key.endswith(f"{name}.weight")):
        raise ArtifactError(
            f"{len(left)} of {len(gets)} tensors have no layer in {base} ({', '.join(left[:2])})", where=str(adapter), next=wrong
        )
    # and over layers that have no tensor: of a tied matrix one name is in the file
    parts = {key.partition(".lora_")[0] for key in gets if ".lora_" in key}
    tied = {f"{PREFIX}{key.removesuffix('.weight')}" for pair in (model.all_tied_weights_keys or {}).items() for key in pair}
    if bare := sorted({key.partition(".lora_")[0] for key in has if ".lora_" in key} - parts - tied):
        raise ArtifactError(
            f"{len(bare)} layers of {base} should have an adapter and have none in the file ({', '.join(bare[:2])})",
            where=str(adapter),
            next=wrong,
        )
    return made


def _rows_needed(adapter: Path, old: int) -> int:
    """Rows of a vocabulary that the adapter extends by single tokens. Raises ArtifactError where it does not have all of them."""
    said = read_json(adapter / ADAPTER).get("trainable_token_indices") or []
    ids = {each for some in (said.values() if isinstance(said, dict) else [said]) for each in some}
    size = max([old, *(each + 1 for each in ids)])
    if lacking := set(range(old, size)) - ids:
        raise ArtifactError(
            f"the adapter has rows up to token {size - 1}, the base {old} rows, and nobody has that of {min(lacking)}",
            where=str(adapter),
            next="name the model that it was trained beside",
        )
    return size


def _untie(model: Any) -> None:
    """Give the output layer a matrix of its own: what is merged into a tied one would be merged into both. Written apart only
    where they came to differ."""
    import torch

    head = model.get_base_model().get_output_embeddings()
    layer: Any = getattr(head, "base_layer", head)
    if isinstance(layer, torch.nn.Linear):
        layer.weight = torch.nn.Parameter(layer.weight.detach().clone(), requires_grad=False)


def some_tokens(tokenizer: str | Path, model: Any) -> torch.Tensor:
    """Tokens of plain English that every Python carries; drawn ones where there is no tokenizer. int64 [B, T]."""
    import pydoc_data.topics as texts

    import torch

    from raylm.model.load import load_tokenizer, text_config

    limit = getattr(text_config(model.config), "max_position_embeddings", None) or TOKENS
    length = min(TOKENS, limit)
    try:
        ids = load_tokenizer(str(tokenizer))("\n".join(texts.topics.values()))["input_ids"][: SEQUENCES * length]
    except ArtifactError:
        draw = torch.Generator().manual_seed(0)
        ids = torch.randint(text_config(model.config).vocab_size, (SEQUENCES * length,), generator=draw).tolist()
    return torch.tensor(ids[: len(ids) // length * length]).view(-1, length)


def logprobs(model: Any, tokens_BT: torch.Tensor) -> torch.Tensor:
    """What a model says of tokens: log-probabilities of the next ones (an encoder: of the same), or a classifier's numbers."""
    import torch

    found = []
    with torch.no_grad():
        for tokens_T in tokens_BT:
            feed = {"input_ids": tokens_T[None]}
            if getattr(model.config, "is_encoder_decoder", False):
                feed["decoder_input_ids"] = tokens_T[None]
            logits = model.eval()(**feed, use_cache=False).logits.float()[0] if _caches(model) else model.eval()(**feed).logits[0]
            found.append(logits.log_softmax(-1)[:-1].gather(1, tokens_T[1:, None])[:, 0] if logits.dim() == 2 else logits.float())
    return torch.cat(found)


def _caches(model: Any) -> bool:
    return hasattr(model.config, "use_cache")


def _cast(weights: Any, dtype: torch.dtype) -> Iterator[tuple[str, torch.Tensor]]:
    for name, tensor in weights.items() if isinstance(weights, dict) else weights:
        yield name, tensor.to(dtype) if tensor.is_floating_point() else tensor


def _check_room(stored: dict[str, Stored], base: str, streams: bool) -> None:
    """Raises ConfigError where this machine cannot hold the model in float32."""
    size, free = 4 * sum(math.prod(tensor.shape) for tensor in stored.values()), free_memory()
    if size > ROOM * free:
        why = "compare the two" if streams else "merge these layers, which are not single matrices"
        raise ConfigError(
            f"{size / 1e9:.1f} GB in float32 must be held to {why}, {free / 1e9:.1f} GB are free",
            where=base,
            next="merge on a larger machine" + (", or add --unchecked" if streams else ""),
        )


def _folder(base: str) -> Path:
    from raylm.model.load import folder_of

    if (found := folder_of(base)) is None:
        raise ArtifactError("no model could be loaded: it is neither a folder nor on the hub", where=base)
    return found
