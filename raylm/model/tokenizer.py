"""Loads tokenizers exactly as their tokenizer.json is written; every stage uses this module.

tokenizer.json -> transformers' class -> does it cut text as the file does? -> yes: that class; no: the file's own parts

A class name in tokenizer_config.json (LlamaTokenizer), or the model_type in config.json beside it (llama, qwen3), makes
transformers 5 build normalizer, pre-tokenizer and decoder anew, whatever the file says: a byte-level vocabulary then loses its
spaces, newlines and all that is not ASCII.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from raylm.core.errors import ArtifactError

# the class that takes a tokenizer.json as it is, by the names that it has had
_AS_WRITTEN = ("PreTrainedTokenizerFast", "TokenizersBackend")
# what a class may raise on a file of another kind
_REFUSALS = (TypeError, ValueError, AttributeError, LookupError)
# what a class may set on purpose: which special tokens there are, and which of them are put around a text
_OWN = ("added_tokens", "post_processor", "truncation", "padding")
_PROBES = (
    "def add(n):\n    return n + 1  # spaces\n\n\n\tif x_1 != 'y':\r\n\t\tpass",
    "  two  spaces,   three\u00a0and\u3000other ones  ",
    "\n\nlines\n \n\tend\n",
    "It's 12345 + 6.7e-8 = 1,000,000; we'LL see… «so» (a/b)[0] -> {c}",
    "naïve café e\u0301 A\u030a ﬁ Ⅻ ½",
    "日本語と中文字符、한국어 ไทย हिन्दी עברית العربية",
    "🦜 👩‍👩‍👧‍👦 🇩🇪 👍🏽 \u200b\ufeff\x07",
    "<s></s><unk> <|endoftext|>[CLS] ▁Ġ##ing",
)


def read_tokenizer(at: str) -> Any:
    """The fast tokenizer in a folder, or of a hub name; no code from there is run.

    Raises:
        ArtifactError: transformers cannot read tokenizer.json as it is written.
        OSError, ValueError, ImportError, KeyError: there is none that transformers can read.
    """
    from transformers import PreTrainedTokenizerFast

    written = _file(at, "tokenizer.json")
    if written is not None and _class_name(at) in _AS_WRITTEN:
        # AutoTokenizer imports every model's config first, which takes 5 s in every worker
        return PreTrainedTokenizerFast.from_pretrained(at)
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    try:
        found = AutoTokenizer.from_pretrained(at, trust_remote_code=False)
    except _REFUSALS:
        # a class that wants another kind of vocabulary than the file's
        if written is None:
            raise
        return PreTrainedTokenizerFast.from_pretrained(at)
    if written is None or not found.is_fast:
        return found
    file = Tokenizer.from_file(str(written))
    return found if _parts(found.backend_tokenizer) == _parts(file) else _as_written(at, found, file)


def keep_as_written(at: Path) -> None:
    """See to it that AutoTokenizer, and so vLLM, reads the tokenizer.json in the local folder `at` as it is written.

    Beside some model types (qwen2, qwen3_5) transformers takes its own class whatever tokenizer_config.json names, unless that
    names code of the folder's own. Without trust_remote_code none is looked for, and the class that is named counts again.

    Raises:
        ArtifactError: it would be read as another tokenizer all the same.
    """
    if not (at / "tokenizer.json").is_file() or _reloads(at):
        return
    read_tokenizer(str(at)).save_pretrained(str(at))
    if _reloads(at):
        return
    path = at / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config |= {"tokenizer_class": _AS_WRITTEN[0], "auto_map": {"AutoTokenizer": [None, "none.AsWritten"]}}
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    if not _reloads(at):
        raise ArtifactError("transformers would read the saved tokenizer.json as another tokenizer", where=str(at))


def _reloads(at: Path) -> bool:
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    try:
        found = AutoTokenizer.from_pretrained(str(at), trust_remote_code=False)
    except _REFUSALS:
        return False
    return _parts(found.backend_tokenizer) == _parts(Tokenizer.from_file(str(at / "tokenizer.json")))


def _as_written(at: str, found: Any, file: Any) -> Any:
    """The tokenizer of the file, with the special tokens and habits of the class that `found` is of."""
    from transformers import PreTrainedTokenizerFast

    made = PreTrainedTokenizerFast.from_pretrained(at)
    vocab = file.get_vocab()
    known = {name: token for name, token in found.special_tokens_map.items() if isinstance(token, str) and token in vocab}
    absent = {name: token for name, token in known.items() if getattr(made, name, None) is None}
    if absent:
        made.add_special_tokens(absent)
    made.padding_side, made.truncation_side = found.padding_side, found.truncation_side
    made.model_input_names = found.model_input_names
    for text in _PROBES:
        mine, theirs = (coder.encode(text, add_special_tokens=False) for coder in (made.backend_tokenizer, file))
        if mine.ids != theirs.ids and not any(token in text for token in (*absent.values(), *made.added_tokens_encoder)):
            raise ArtifactError(
                f"transformers reads this tokenizer.json as another tokenizer: {text[:30]!r} becomes {mine.tokens[:8]}, "
                f"the file says {theirs.tokens[:8]}",
                where=at,
                next='set "tokenizer_class": "PreTrainedTokenizerFast" in its tokenizer_config.json, or mend tokenizer.json',
            )
    return made


def _parts(backend: Any) -> dict[str, Any]:
    """What decides how a text is cut."""
    return {name: value for name, value in json.loads(backend.to_str()).items() if name not in _OWN}


def _class_name(at: str) -> str | None:
    config = _file(at, "tokenizer_config.json")
    return None if config is None else json.loads(config.read_text()).get("tokenizer_class")


def _file(at: str, name: str) -> Path | None:
    if Path(at).is_dir():
        path = Path(at) / name
        return path if path.is_file() else None
    from transformers.utils.hub import cached_file

    found = cached_file(at, name, _raise_exceptions_for_missing_entries=False)
    return None if found is None else Path(found)
