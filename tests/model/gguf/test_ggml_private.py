"""ggml's quantizer out of xllamacpp: seen to work with the version that is named; another one must be tried again."""

from __future__ import annotations

from importlib import metadata

import numpy as np
import pytest

pytest.importorskip("xllamacpp", reason="xllamacpp is not installed: pip install 'raylm[export]'")

from raylm.model.gguf.ggml_private import VERSION, library, quantize


def test_it_is_the_version_that_was_tried():
    assert metadata.version("xllamacpp").startswith(VERSION)


def test_it_writes_what_gguf_writes_where_both_can():
    import gguf

    values = np.random.default_rng(1).normal(size=(4, 64)).astype(np.float32)
    kind = gguf.GGMLQuantizationType.Q8_0
    assert library().ggml_quantize_chunk is not None
    np.testing.assert_array_equal(quantize(values, int(kind), 68), gguf.quantize(values, kind))
