"""The `mlx` format: the folder that mlx_lm.load reads; where MLX can be had, it gives the same logits."""

from __future__ import annotations

import json
import struct
import subprocess

import pytest
import torch
from safetensors.torch import load_file

from raylm.compress.formats.mlx import MODEL_TYPES, Mlx, flat
from raylm.compress.formats.source import Source
from raylm.core.errors import ConfigError
from raylm.core.storage import Folder
from raylm.model.load import load_model
from tests.bench.near_copies.peers import python_of
from tests.model.gguf.small import checkpoint, small

RUN = """
import json, sys, numpy as np, mlx.core as mx
from mlx_lm import load
model, tokenizer = load(sys.argv[1])
ids = tokenizer.encode("def add(first, second):")
np.save(sys.argv[2], np.array(model(mx.array([ids])).astype(mx.float32)))
print(json.dumps([ids, tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], add_generation_prompt=True)]))
"""


def test_weights_are_marked_and_the_same(tmp_path):
    written = Mlx().write(Source(str(small("llama"))), Folder(tmp_path))
    assert written.variant == "export:mlx"
    file = tmp_path / "model.safetensors"
    with file.open("rb") as stream:
        header = json.loads(stream.read(struct.unpack("<Q", stream.read(8))[0]))
    assert header["__metadata__"]["format"] == "mlx"
    here, there = load_file(small("llama") / "model.safetensors"), load_file(file)
    assert here.keys() == there.keys() and all(torch.equal(here[name], there[name]) for name in here)
    assert {"config.json", "tokenizer.json", "tokenizer_config.json"} <= set(Folder(tmp_path).files())
    assert load_model(str(tmp_path)), "transformers reads it as before"


def test_what_transformers_nests_is_where_mlx_looks_for_it():
    rope = {"rope_theta": 5e5, "rope_type": "llama3", "factor": 8.0}
    found = flat({"model_type": "llama", "rope_parameters": rope})
    assert found["rope_theta"] == 5e5 and found["rope_scaling"] == {"rope_type": "llama3", "factor": 8.0}
    assert "rope_scaling" not in flat({"rope_parameters": {"rope_theta": 1e4, "rope_type": "default"}})
    with pytest.raises(ConfigError, match="different angles"):
        flat({"rope_parameters": {"full_attention": {"rope_theta": 1e6}}})


def test_networks_that_mlx_lacks_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="not proved for 'bloom'"):
        Mlx().check_config({"model_type": "bloom"}, "here")


@pytest.mark.long
@pytest.mark.parametrize("kind", MODEL_TYPES)
def test_mlx_gives_the_same_logits(tmp_path, kind):
    # not the base that mlx-lm takes where it finds none
    at = checkpoint(tmp_path / "model", kind, rope_theta=500.0)
    Mlx().write(Source(str(at)), Folder(tmp_path / "out"))
    python = python_of("mlx", "mlx-lm==0.32.2", "mlx==0.32.4", "mlx-cpu==0.32.4")
    command = [str(python), "-c", RUN, str(tmp_path / "out"), str(tmp_path / "logits.npy")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    import numpy as np

    ids, talk = json.loads(done.stdout.splitlines()[-1])
    model = load_model(str(at), "float32").eval()
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits
    assert talk[0] == 1, "the chat template's first token"
    assert torch.allclose(torch.from_numpy(np.load(tmp_path / "logits.npy")), logits, atol=2e-3, rtol=2e-3)
