"""Writes a folder of weights, config and tokenizer that transformers and vLLM can load."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raylm.core.artifact import WORK
from raylm.core.storage import Folder
from raylm.model.adapters.merging import is_part
from raylm.model.chat_template import written_template
from raylm.model.headers import read_headers, usual_dtype
from raylm.model.load import auto_class, beside, folder_of, load_tokenizer, on_this_machine
from raylm.model.preflight import GENERATION
from raylm.model.tokenizer import keep_as_written
from raylm.model.weight_files import Written, write_weights

if TYPE_CHECKING:
    import torch

TOKENIZER = (
    "tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json", "chat_template*", "*.model",
    "additional_chat_templates/*",
)  # fmt: skip
PROCESSOR = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")
PROCESSOR_TEMPLATE = "chat_template.json"


def write_checkpoint(
    out: Folder,
    config: Any,
    weights: dict[str, torch.Tensor] | Iterable[tuple[str, torch.Tensor]],
    tokenizer: str,
    extra: Callable[[Path], None] | None = None,
    start: str = "",
    keep_dtypes: bool = True,
) -> None:
    """Write config.json, safetensors, generation config and tokenizer files to `out`, each whole or not at all.

    Args:
        config: the transformers config of the model.
        weights: full tensors by Hugging Face name, or one after the other (`Engine.stream`): few are held at a time then.
        tokenizer: folder (or hub name) of the tokenizer.
        extra: writes more files into the folder it is given, or checks what is there.
        start: address of the weights that these were made from. Kept of it: the dtype of each tensor, generation_config.json,
            files of its processor.
        keep_dtypes: False writes tensors in their own dtype, whatever that of `start` is.
    """
    import torch

    # a fresh model without memory knows how its class is stored; the trained one may be sharded or full of adapters
    with torch.device("meta"):
        plain: Any = auto_class(config).from_config(config)
    dtypes, usual = _dtypes(start if keep_dtypes else "")
    # inside the work folder: what a kill leaves of it is no payload
    near = (out / WORK).make().uri if out.is_local else None
    with tempfile.TemporaryDirectory(prefix=".checkpoint-", dir=near) as at:
        named: Any = weights.items() if isinstance(weights, dict) else weights
        written = write_weights(Path(at), plain, named, dtypes=dtypes, usual=usual)
        _write_config(Path(at), plain, written)
        write_tokenizer(tokenizer, Path(at))
        _write_generation_config(Path(at), plain, start)
        # the processor's own chat template may be another than that by which the rows were rendered
        own = () if written_template(Path(at)) else (PROCESSOR_TEMPLATE,)
        for name in (*PROCESSOR, *own) if start else ():
            if (file := beside(start, name)) and not (Path(at) / name).exists():
                shutil.copyfile(file, Path(at) / name)
        if extra:
            extra(Path(at))
        publish(Path(at), out)


def write_tokenizer(tokenizer: str, folder: Path) -> None:
    """Put the tokenizer's files into the local `folder`: byte for byte where they lie in one and AutoTokenizer
    reads them as they are written, else as transformers saves them."""
    at = Path(on_this_machine(tokenizer))
    if not any((at / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")):
        load_tokenizer(tokenizer).save_pretrained(folder)
    else:
        for path in sorted({path for pattern in TOKENIZER for path in at.glob(pattern) if path.is_file()}):
            (folder / path.relative_to(at)).parent.mkdir(exist_ok=True)
            shutil.copyfile(path, folder / path.relative_to(at))
    keep_as_written(folder)


def turn_end(tokenizer: Any) -> int | None:
    """The token that the chat template writes behind an answer to end it; None without a template, or where it writes none."""
    from jinja2 import TemplateError

    if not getattr(tokenizer, "chat_template", None):
        return None
    answer = "Zq7"
    dialogue = [{"role": "user", "content": "Ab"}, {"role": "assistant", "content": answer}]
    try:
        rendered = str(tokenizer.apply_chat_template(dialogue, tokenize=False))
    except (TemplateError, ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError):
        return None
    behind = rendered.rpartition(answer)[2]
    # special tokens, and others that no text is cut into: they stand for themselves
    marks = {str(token.content): number for number, token in tokenizer.added_tokens_decoder.items()}
    found = [(behind.find(mark), -len(mark), number) for mark, number in marks.items() if mark and mark in behind]
    return min(found)[2] if found else None


def end_tokens(folder: Path, tokenizer: Any) -> list[int]:
    """Ids that end a completion: those of generation_config.json (of config.json where there is none), the tokenizer's end token,
    and the end of a turn as the chat template writes it, which checkpoints that raylm did not write often leave out."""
    files = [file for file in (folder / GENERATION, folder / "config.json") if file.is_file()]
    found = json.loads(files[0].read_text()).get("eos_token_id") if files else None
    ends = [*(found if isinstance(found, list) else [found]), tokenizer.eos_token_id, turn_end(tokenizer)]
    return sorted({int(end) for end in ends if end is not None})


def lacks_turn_end(tokenizer: Any) -> bool:
    """Whether answers are rendered without anything that could stop an engine behind them."""
    return bool(getattr(tokenizer, "chat_template", None)) and turn_end(tokenizer) is None


def _dtypes(start: str) -> tuple[dict[str, torch.dtype], torch.dtype | None]:
    """Dtype of each tensor of `start` by stored name, and of most of it."""
    import torch

    folder = folder_of(start) if start else None
    if folder is None:
        return {}, None
    spelled = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    stored = read_headers(folder)
    # beside a matrix in 4 bits lie its scales, which are no weights
    floats = {name: tensor for name, tensor in stored.items() if tensor.dtype in spelled and ".weight." not in name}
    return {name: spelled[tensor.dtype] for name, tensor in floats.items()}, spelled.get(usual_dtype(floats) or "")


def _write_config(folder: Path, plain: Any, written: Written) -> None:
    config = plain.config
    config.architectures = [type(plain).__name__]
    for part in (config, *(getattr(config, name, None) for name in config.sub_configs)):
        if part is None:
            continue
        part.dtype = written.dtype
        if not written.tied and getattr(part, "tie_word_embeddings", False):
            part.tie_word_embeddings = False
    config.save_pretrained(folder)


def _write_generation_config(folder: Path, plain: Any, start: str) -> None:
    """That of `start`, or one made of the model's config; the end of a turn is among its stop ids."""
    from transformers import GenerationConfig

    file = folder / GENERATION
    GenerationConfig.from_model_config(plain.config).save_pretrained(folder)
    made = json.loads(file.read_text())
    if kept := beside(start, file.name) if start else None:
        # as it stands: transformers refuses to write some that it reads
        made = {"eos_token_id": made.get("eos_token_id"), **json.loads(kept.read_text())}
    said = made.get("eos_token_id")
    ends = [end for end in (said if isinstance(said, list) else [said]) if end is not None]
    end = turn_end(load_tokenizer(str(folder)))
    if end is not None and end not in ends:
        ends.append(end)
    made["eos_token_id"] = ends[0] if len(ends) == 1 and not isinstance(said, list) else ends
    if not ends:
        del made["eos_token_id"]
    file.write_text(json.dumps(made, indent=2, sort_keys=True) + "\n")


def publish(folder: Path, out: Folder) -> None:
    """Move every file below the local `folder` into `out`."""
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        with out.writing(str(path.relative_to(folder))) as target:
            shutil.copyfile(path, target)


def num_parameters(model: torch.nn.Module) -> int:
    """Number of weights, shared ones counted once, adapters not counted; of matrices in 4 bits what these stand for."""
    from raylm.model.linear_4bit import layers_of

    stored = {name: layer.in_features * layer.out_features for name, layer in layers_of(model).items()}
    return sum(stored.get(name, p.numel()) for name, p in model.named_parameters() if not is_part(name))
