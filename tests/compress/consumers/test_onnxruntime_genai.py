"""onnxruntime-genai as a consumer: what it reads and says; its answers are compared in tests/compress/formats/test_onnx.py."""

from __future__ import annotations

from raylm.compress.consumers.onnxruntime_genai import OnnxruntimeGenai
from raylm.compress.consumers.parity import consumers_of


def test_it_reads_onnx_alone():
    assert "onnxruntime_genai" in {card.kind for card in consumers_of("onnx")}
    assert "onnxruntime_genai" not in {card.kind for card in consumers_of("gguf")}
    card = OnnxruntimeGenai()
    assert bool(card.version()) is (card.installed() == "")
