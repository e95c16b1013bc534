"""openvino-genai on tiny GGUF files that are written here; nothing is sent to anybody."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("openvino_genai", reason="openvino-genai is not installed: pip install 'raylm[export]'")

from raylm.compress.consumers.openvino import Openvino
from raylm.compress.consumers.parity import Asked, prove
from raylm.model.gguf.write import write_gguf
from tests.model.gguf.small import small

ASKED = Asked("gguf", exact=True, noise=2e-2, max_tokens=8)
SILENT = """
import sys
from raylm.compress.consumers.openvino import without_telemetry
without_telemetry()
import openvino, openvino_genai
assert not [name for name in sys.modules if name.startswith("openvino_telemetry") and sys.modules[name] is not None]
try:
    import openvino_telemetry
except ImportError:
    print("silent")
"""


def test_it_says_what_transformers_says(tmp_path):
    write_gguf(small("qwen3"), tmp_path / "model.gguf", "f16")
    parity = prove(ASKED, tmp_path, str(small("qwen3")), num_prompts=6, consumers=[Openvino()], say=lambda line: None)
    (found,) = parity.verdicts
    assert not parity.wrong(), parity.lines()
    assert found.ids_equal == 6 and found.tells_ids and found.tokens_equal + found.near_ties == 6


def test_what_it_does_not_read_is_not_proved_and_no_fault(tmp_path):
    write_gguf(small("llama"), tmp_path / "model.gguf", "f16")
    assert Openvino().refuses(tmp_path) == "OpenVINO splits text as qwen2 does, whatever the file says: gpt-2"
    write_gguf(small("qwen3"), tmp_path / "model.gguf", "f32")
    assert Openvino().refuses(tmp_path) == "OpenVINO reads no F32"
    parity = prove(ASKED, tmp_path, str(small("qwen3")), num_prompts=2, consumers=[Openvino()], say=lambda line: None)
    assert parity.verdicts[0].unproved == "OpenVINO reads no F32" and not parity.wrong()
    write_gguf(small("gpt2"), tmp_path / "model.gguf", "f16")
    assert "architecture 'gpt2'" in Openvino().refuses(tmp_path)


def test_its_telemetry_is_not_even_loaded():
    done = subprocess.run([sys.executable, "-c", SILENT], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == "silent", done.stderr[-1000:]
