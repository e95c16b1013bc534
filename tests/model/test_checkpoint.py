"""Takes weights, proves that what is written loads in transformers and that nothing half-written is left."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from raylm.core.storage import Folder
from raylm.model.checkpoint import num_parameters, write_checkpoint
from raylm.model.weights import weight_names
from tests.model.tiny import tiny_checkpoint, tiny_model


@pytest.mark.parametrize("tied", [True, False])
def test_a_checkpoint_loads_in_transformers(tmp_path, tied):
    source = tiny_checkpoint(tmp_path / "source", vocab=300, hidden=32, layers=1)
    model = tiny_model(vocab=300, hidden=32, layers=1, seed=9)
    if not tied:
        model.config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach() * 2)
    out = Folder(tmp_path / "out")

    write_checkpoint(out, model.config, model.state_dict(), str(source), extra=lambda at: (at / "note.txt").write_text("x"))

    loaded = AutoModelForCausalLM.from_pretrained(out.uri)
    tokens = torch.tensor([[1, 8, 99]])
    assert torch.equal(loaded(tokens).logits, model(tokens).logits)
    assert ("lm_head.weight" in weight_names(tmp_path / "out")) is not tied
    assert AutoTokenizer.from_pretrained(out.uri).encode("import this") == AutoTokenizer.from_pretrained(source).encode(
        "import this"
    )
    assert GenerationConfig.from_pretrained(out.uri).eos_token_id == 2
    assert "note.txt" in out.files()
    assert not [name for name in out.files() if name.startswith(".")]


def test_tied_weights_are_counted_once():
    model = torch.nn.ModuleDict({"a": torch.nn.Linear(4, 3, bias=False), "b": torch.nn.Linear(4, 3, bias=False)})
    assert num_parameters(model) == 24
    model["b"].weight = model["a"].weight
    assert num_parameters(model) == 12
