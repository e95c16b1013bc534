"""The fastest encoder of a tokenizer whose ids are proven equal to Hugging Face's.

tokenizer -> gigatoken reads its JSON? -> probes and the shard's own texts: equal ids? -> gigatoken, else tokenizers

The two libraries know different versions of Unicode (gigatoken 0.10: 17, tokenizers 0.23: 16), and so cut some 4,700 rare
characters apart in different places. A text with a character that they may see differently is left to tokenizers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

# texts per call of `tokenizers`: its encodings are large
_BATCH = 256
# of what is to be encoded, compared with Hugging Face's ids first: at 3 MB/s less than half a second for each shard
_SAMPLE_CHARACTERS, _SAMPLE_TEXTS = 1_000_000, 64

PROBES = (
    "", " ", "\n", "\r\n", "a", "  a", "a  ", "\t\ta\t", " \n \r\n\n x \n\n", "\r\r\n\n", "x\u00a0y\u3000z\u2028w\u200b\u0085",
    "It's we'll THEY'RE I'D o'clock 'sfoo 'Sfoo '\u017ffoo ''s", "1 12 123 1234 1234567 ٣٤٥ ½ Ⅻ 1,000.50 2024-01-01",
    "naïve café Zürich ß İstanbul ǅ ﬁ ﬆ e\u0301 a\u0300\u0301", "日本語 中文字符 한국어 ไทย हिन्दी עברית العربية ﷽",
    "🦜 👩‍👩‍👧‍👦 🇩🇪 👍🏽 \U0001f9ff\ufe0f", "\x00\x01\x1b\x7f\x1c\x1f", "\ufffd\ufeff\U000e0001\U0010ffff\U00020000",
    "foo_bar(baz)->qux; // --- === *** !!! ... ,,, $$$ #!/bin/sh", "a" * 3000, " " * 3000, "\n" * 3000, "é" * 3000, "=-" * 1500,
    "🦜" * 700, "日" * 3000, "ab1 " * 1000, "<s></s><unk> <|endoftext|>", "\u0378\u0e5c\U0001fbff\u1c8a\ua7cb\ua7da",
)  # fmt: skip


class Encoder:
    """Texts to ids. `name` is the backend: `gigatoken` or `tokenizers`; `reason` says why it is not gigatoken.

    No special token is added, and one that a text spells is text.
    """

    def __init__(self, tokenizer: Any, fast: Any | None, reason: str) -> None:
        self._backend, self._fast, self.reason = tokenizer.backend_tokenizer, fast, reason
        self.name = "tokenizers" if fast is None else "gigatoken"

    def __call__(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """(ids int32[N], offsets int64[T+1]): text t has ids[offsets[t]:offsets[t+1]]."""
        import numpy as np

        if self._fast is None:
            return _slow(self._backend, texts)
        ids, offsets = _quick(self._fast, texts)
        odd = [at for at, text in enumerate(texts) if not text.isascii() and _is_odd(text)]
        if not odd:
            return ids, offsets
        again, bounds = _slow(self._backend, [texts[at] for at in odd])
        parts = np.split(ids, offsets[1:-1])
        for at, part in zip(odd, np.split(again, bounds[1:-1]), strict=True):
            parts[at] = part
        return np.concatenate(parts), np.cumsum([0, *map(len, parts)])


def encoder(tokenizer: Any, texts: Sequence[str] = ()) -> Encoder:
    """The encoder of a fast transformers tokenizer.

    Args:
        texts: of what is to be encoded; some are compared before gigatoken is trusted with the rest.
    """
    backend = tokenizer.backend_tokenizer
    backend.encode_special_tokens = True
    backend.no_truncation()
    backend.no_padding()
    fast, reason = _gigatoken(backend)
    if fast is None:
        return Encoder(tokenizer, None, reason)
    for text in [*PROBES, *_spelled(tokenizer), *_some(texts)]:
        # an odd text is encoded by tokenizers in any case, and must not force all others to be
        if not _equal(backend, fast, text) and not _is_odd(text):
            return Encoder(tokenizer, None, f"other ids for {text[:40]!r}")
    return Encoder(tokenizer, fast, "")


def _gigatoken(backend: Any) -> tuple[Any | None, str]:
    """(its tokenizer, ""), or (None, why it cannot read this one)."""
    import gigatoken

    plain = json.loads(backend.to_str())
    # what is special is not looked for in text
    plain["added_tokens"] = [token for token in plain["added_tokens"] if not token["special"]]
    plain["post_processor"] = plain["truncation"] = plain["padding"] = None
    try:
        return gigatoken.Tokenizer.from_json(json.dumps(plain)), ""
    except (ValueError, RuntimeError, NotImplementedError) as cause:
        return None, f"gigatoken cannot read it: {cause}"


def _spelled(tokenizer: Any) -> list[str]:
    specials = [str(token.content) for token in tokenizer.added_tokens_decoder.values()]
    return [text for token in specials[:64] for text in (token, f" {token} ", f"x{token}y", f"{token}{token}\n")]


def _some(texts: Sequence[str]) -> list[str]:
    """Texts from all over, each cut to its part of what may be compared."""
    step = max(1, len(texts) // _SAMPLE_TEXTS)
    chosen = [texts[at] for at in range(0, len(texts), step)][:_SAMPLE_TEXTS]
    return [text[: _SAMPLE_CHARACTERS // max(1, len(chosen))] for text in chosen]


def _is_odd(text: str) -> bool:
    import numpy as np

    return bool(odd_characters()[np.frombuffer(text.encode("utf-32-le"), np.uint32)].any())


@cache
def odd_characters() -> np.ndarray:
    """bool[0x110000]: characters that the two libraries may see differently. Takes 1 s, once, when a text is not ASCII.

    Those that they class differently (letter, number, space, other), and those that this Python's Unicode has not assigned,
    whose normal form a later version may define.
    """
    import unicodedata

    import numpy as np
    from gigatoken import pretokenizer

    from raylm.tokenize.trainers.pattern import LETTER, NUMBER, OTHER, classes

    found = classes()
    odd = np.array([unicodedata.category(chr(at)) == "Cn" for at in range(0x110000)])
    points = np.setdiff1d(np.arange(0x40000), np.arange(0xD800, 0xE000))
    for kind, first in ((LETTER, "a"), (NUMBER, "1"), (OTHER, "!")):
        # all of a class in a row are one pre-token, unless gigatoken sees one of them as something else
        row = "".join(map(chr, points[found[points] == kind].tolist()))
        for part in pretokenizer(row.encode()):
            if len(list(pretokenizer(first.encode() + part))) > 1:
                odd[[ord(character) for character in part.decode()]] = True
    return odd


def _equal(backend: Any, fast: Any, text: str) -> bool:
    return _quick(fast, [text])[0].tolist() == backend.encode(text, add_special_tokens=False).ids


def _quick(fast: Any, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    import numpy as np

    # on this thread: there are as many workers as cores
    layout = fast.encode_batch(texts, parallel=False).layout
    offsets = np.asarray(layout.offsets.data, dtype=np.int64)
    ids = np.asarray(layout.content.data[offsets[0] : offsets[-1]]).view(np.int32)
    return ids, offsets - offsets[0]


def _slow(backend: Any, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    import numpy as np

    parts, sizes = [], [0]
    for at in range(0, len(texts), _BATCH):
        for encoding in backend.encode_batch_fast(texts[at : at + _BATCH], add_special_tokens=False):
            parts.append(np.array(encoding.ids, dtype=np.int32))
            sizes.append(len(parts[-1]))
    ids = np.concatenate(parts) if parts else np.zeros(0, np.int32)
    return ids, np.cumsum(np.array(sizes, np.int64))
