"""The `onnx` format: what onnxruntime-genai reads of it is the checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime_genai", reason="onnxruntime-genai is not installed: pip install 'raylm[export]'")

from raylm.compress.consumers.onnxruntime_genai import OnnxruntimeGenai
from raylm.compress.consumers.parity import prove
from raylm.compress.formats.onnx import ARCHITECTURES, Onnx
from raylm.compress.formats.source import Source
from raylm.core.errors import ArtifactError, ConfigError
from raylm.core.storage import Folder
from tests.model.gguf.small import small


class WrongTemplate(Onnx):
    """Leaves the first token of the chat template out."""

    def build(self, folder: Path, at: Path) -> None:
        super().build(folder, at)
        file = at / "chat_template.jinja"
        file.write_text(file.read_text().replace("{{ bos_token }}", ""))
        settings = at / "tokenizer_config.json"
        settings.write_text(settings.read_text().replace("{{ bos_token }}", ""))


def test_it_is_written_with_its_proof_and_a_planted_fault_is_not(tmp_path):
    out = Folder(tmp_path / "out")
    written = Onnx(parity_prompts=4).write(Source(str(small("llama"))), out)
    assert {"model.onnx", "genai_config.json", "tokenizer.json", "chat_template.jinja", "parity.json"} <= set(out.files())
    assert written.facts["parity"]["onnxruntime_genai"].startswith("ids 4/4, answers 4/4")
    assert written.metrics["parity_kl"] < 1e-5
    settings = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert settings["chat_template"] == (tmp_path / "out" / "chat_template.jinja").read_text()
    # the same files with another template: the program is asked again
    at = tmp_path / "out"
    file = at / "chat_template.jinja"
    file.write_text(file.read_text().replace("{{ bos_token }}", ""))
    (at / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": file.read_text()}))
    parity = prove(Onnx().asked(), at, str(small("llama")), num_prompts=2, consumers=[OnnxruntimeGenai()])
    with pytest.raises(ArtifactError, match=r"prompt token 0 is \d+ '<.user.>', transformers makes 1 '<.bos.>'"):
        parity.check("here")


@pytest.mark.long
@pytest.mark.parametrize(("kind", "precision"), [("qwen3", "fp16"), ("llama", "int4"), ("mistral", "int8"), ("qwen2", "fp32")])
def test_other_networks_and_precisions(tmp_path, kind, precision):
    written = Onnx(precision=precision, parity_prompts=8).write(Source(str(small(kind))), Folder(tmp_path))
    assert "ids 8/8" in written.facts["parity"]["onnxruntime_genai"]
    assert written.metrics["parity_kl"] < {"fp32": 1e-5, "fp16": 1e-3, "int8": 0.05, "int4": 0.5}[precision]


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
