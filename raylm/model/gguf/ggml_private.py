"""ggml's own quantizers, out of the shared object of xllamacpp: the K-quants that the gguf package reads and does not write.

`ggml_quantize_chunk` is part of ggml's C interface (ggml.h); that xllamacpp's module shows it is seen here, not promised by it.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import TYPE_CHECKING, Any

from raylm.core.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np

VERSION = "2026.10"
"""Of xllamacpp with which this was last seen to work."""


@cache
def library() -> Any:
    """The library, loaded once in a process. Raises ConfigError where there is none."""
    from importlib import metadata
    from importlib.util import find_spec

    found = find_spec("xllamacpp")
    files = [file for file in metadata.files("xllamacpp") or [] if file.suffix == ".so"] if found else []
    if not files:
        raise ConfigError("K-quants are made by ggml, which comes with xllamacpp", next="pip install 'raylm[export]'")
    loaded = ctypes.CDLL(str(files[0].locate()))
    try:
        quantize = loaded.ggml_quantize_chunk
    except AttributeError:
        raise ConfigError(
            f"this xllamacpp shows no ggml_quantize_chunk; {VERSION} does", next="pip install the version of the lock"
        ) from None
    quantize.restype = ctypes.c_size_t
    quantize.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 3, ctypes.c_void_p]
    return loaded


def quantize(values: np.ndarray, kind: int, num_bytes: int) -> np.ndarray:
    """float32[rows, width] as uint8[rows, bytes of a row] of the ggml type `kind`; `num_bytes` is that of one row."""
    import numpy as np

    values = np.ascontiguousarray(values, np.float32)
    rows, width = values.shape
    out = np.empty((rows, num_bytes), np.uint8)
    done = library().ggml_quantize_chunk(kind, values.ctypes.data, out.ctypes.data, 0, rows, width, None)
    if done != out.nbytes:
        raise ConfigError(f"ggml wrote {done} bytes of type {kind}, {out.nbytes} were meant")
    return out
