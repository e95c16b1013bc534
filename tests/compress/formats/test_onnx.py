"""The `onnx` format: what onnxruntime-genai reads of it is the checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("onnxruntime_genai", reason="onnxruntime-genai is not installed: pip install 'raylm[export]'")

from raylm.compress.consumers.comparison import Verdict, compare
from raylm.compress.consumers.consumer import Prompt
from raylm.compress.consumers.onnxruntime_genai import OnnxruntimeGenai
from raylm.compress.consumers.transformers import Transformers
from raylm.compress.formats.onnx import ARCHITECTURES, BITS, Onnx
from raylm.compress.formats.source import Source
from raylm.core.errors import ArtifactError, ConfigError
from raylm.core.storage import Folder
from raylm.model.changed_copy import changed_copy
from raylm.model.load import load_tokenizer
from tests.model.gguf.small import small

PROMPTS: list[Prompt] = [[{"role": "user", "content": "It's 12345 o'clock."}], "two  spaces, naïve café 日本 👍🏽 1,000:\n\n- x"]


def without_begin(at: Path) -> None:
    """Leave the first token of the chat template out."""
    for name in ("chat_template.jinja", "tokenizer_config.json"):
        (at / name).write_text((at / name).read_text().replace("{{ bos_token }}", ""))


class WrongTemplate(Onnx):
    """Writes another template."""

    def build(self, folder: Path, at: Path) -> None:
        super().build(folder, at)
        without_begin(at)


class WrongNorm(Onnx):
    """Builds of a checkpoint one of whose norms is another one."""

    def build(self, folder: Path, at: Path) -> None:
        def lost(name: str, tensor: Any) -> Any:
            return torch.ones_like(tensor) if name == "model.layers.0.input_layernorm.weight" else tensor

        super().build(changed_copy(folder, at.parent / "wrong" / folder.name, lost), at)


def test_what_is_built_answers_as_the_checkpoint_and_a_planted_fault_is_seen(tmp_path):
    Onnx().build(small("llama"), tmp_path)
    assert {"model.onnx", "genai_config.json", "tokenizer.json", "chat_template.jinja"} <= set(Folder(tmp_path).files())
    mine, theirs = Transformers().run(small("llama"), PROMPTS, 6), OnnxruntimeGenai().run(tmp_path, PROMPTS, 6)
    for one, other in zip(mine, theirs, strict=True):
        assert (one.prompt_ids, one.tokens) == (other.prompt_ids, other.tokens)
        assert one.logprobs and other.logprobs and abs(one.logprobs.values[:, 0] - other.logprobs.values[:, 0]).max() < 1e-4
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert settings["chat_template"] == (tmp_path / "chat_template.jinja").read_text()
    without_begin(tmp_path)
    said = compare(
        Verdict("onnxruntime_genai", ""), PROMPTS, mine, OnnxruntimeGenai().run(tmp_path, PROMPTS, 6), 1e-3,
        load_tokenizer(str(small("llama"))),
    )  # fmt: skip
    assert said.ids_equal == 1 and "'<|user|>', transformers makes 1 '<|bos|>'" in said.first_ids


@pytest.mark.long
def test_it_is_written_with_its_proof(tmp_path):
    out = Folder(tmp_path / "out")
    written = Onnx(parity_prompts=4).write(Source(str(small("llama"))), out)
    assert {"model.onnx", "genai_config.json", "tokenizer.json", "chat_template.jinja", "parity.json"} <= set(out.files())
    assert written.facts["parity"]["onnxruntime_genai"].startswith("ids 4/4, answers 4/4")
    assert written.metrics["parity_kl"] < 1e-5


@pytest.mark.long
@pytest.mark.parametrize(("kind", "precision"), [("llama", "fp16"), ("qwen3", "fp16"), ("llama", "int4"), ("mistral", "int8")])
def test_other_networks_and_precisions(tmp_path, kind, precision):
    written = Onnx(precision=precision, parity_prompts=8).write(Source(str(small(kind))), Folder(tmp_path))
    assert "ids 8/8" in written.facts["parity"]["onnxruntime_genai"]
    assert written.metrics["parity_kl"] < {"fp32": 1e-5, "fp16": 1e-3, "int8": 0.05, "int4": 0.5}[precision]
    if precision in BITS:
        told = json.loads((tmp_path / "parity.json").read_text())["consumers"]
        assert all(each["rounded_kl"] < 1e-3 for each in told if each["prompts"])


@pytest.mark.long
def test_what_four_bits_do_not_explain_is_not_published(tmp_path):
    """A layer whose norm is lost is no rounding, however little it moves the predictions."""
    with pytest.raises(ArtifactError, match=r"nats per token from transformers with the same rounded weights"):
        WrongNorm(precision="int4", parity_prompts=8).write(Source(str(small("llama"))), Folder(tmp_path))
    assert Folder(tmp_path).files() == []


@pytest.mark.long
def test_what_the_program_cuts_otherwise_is_not_published(tmp_path):
    # to a qwen2 it gives that family's own pre-tokenizer, whatever tokenizer.json says
    with pytest.raises(ArtifactError, match="onnxruntime_genai"):
        Onnx(parity_prompts=8).write(Source(str(small("qwen2"))), Folder(tmp_path))
    assert Folder(tmp_path).files() == []


@pytest.mark.long
def test_a_wrong_template_is_not_published(tmp_path):
    with pytest.raises(ArtifactError, match="another model in the programs that read it"):
        WrongTemplate(parity_prompts=2).write(Source(str(small("llama"))), Folder(tmp_path))
    assert Folder(tmp_path).files() == []


def test_networks_that_the_builder_lacks_are_refused_by_name(tmp_path):
    with pytest.raises(ConfigError, match="builder has no GPT2LMHeadModel"):
        Onnx().write(Source(str(small("gpt2"))), Folder(tmp_path))


def test_the_builder_knows_the_architectures_that_are_named():
    import onnxruntime_genai

    source = (Path(onnxruntime_genai.__file__).parent / "models" / "builder.py").read_text()
    assert [name for name in ARCHITECTURES if f'== "{name}"' not in source] == []


def test_a_builder_that_comes_to_no_end_is_told_in_words(tmp_path, monkeypatch):
    monkeypatch.setattr("raylm.compress.formats.onnx.BUILD_S", 0.01)
    with pytest.raises(ConfigError, match=r"builder was not done after 0\.01 s"):
        Onnx().build(small("llama"), tmp_path)
