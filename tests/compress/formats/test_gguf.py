"""The `gguf` format: what is written is proved before it is published, and what is wrong is not published."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from raylm.compress.formats.gguf import Gguf
from raylm.compress.formats.source import Changed, Source
from raylm.core.artifact import WORK
from raylm.core.errors import ArtifactError, ConfigError
from raylm.core.storage import Folder
from raylm.model.gguf.lineage import name_of
from raylm.model.load import load_model
from tests.model.gguf.small import small


class Killed(Gguf):
    """Dies while it writes."""

    def write_file(self, folder: Path, file: Path) -> Any:
        file.write_bytes(b"GGUF")
        os.kill(os.getpid(), signal.SIGKILL)


class WithoutBegin(Gguf):
    """Writes a template that leaves the first token out."""

    def write_file(self, folder: Path, file: Path) -> Any:
        from raylm.model.gguf.write import write_gguf

        template = (folder / "chat_template.jinja").read_text().replace("{{ bos_token }}", "")
        return write_gguf(folder, file, self.dtype, changes={"tokenizer.chat_template": template})


def test_a_file_is_written_with_its_proof(tmp_path):
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed: pip install 'raylm[export]'")
    written = Gguf(dtype="f16", parity_prompts=4).write(Source(str(small("llama"))), Folder(tmp_path))
    assert written.variant == "export:gguf"
    assert sorted(Folder(tmp_path).files()) == ["model-f16.gguf", "parity.json"]
    assert written.facts["parity"]["xllamacpp"].startswith("ids 4/4, answers 4/4")
    assert written.metrics["parity_kl"] < 1e-4 and 16 <= written.metrics["bits_per_weight"] < 17
    told = json.loads((tmp_path / "parity.json").read_text())
    ran = {each["consumer"]: each for each in told["consumers"]}
    assert ran["xllamacpp"]["tokens_equal"] == 4 and told["asked"]["exact"]


def test_what_a_consumer_reads_otherwise_is_not_published(tmp_path):
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed: pip install 'raylm[export]'")
    with pytest.raises(ArtifactError, match=r"xllamacpp .* prompt token 0 is \d+ '<.user.>', transformers makes 1 '<.bos.>'"):
        WithoutBegin(dtype="q8_0", parity_prompts=2).write(Source(str(small("llama"))), Folder(tmp_path))
    assert Folder(tmp_path).files() == []


def test_without_prompts_it_says_that_nothing_is_proved(tmp_path):
    written = Gguf(dtype="q8_0", parity_prompts=0).write(Source(str(small("gpt2"))), Folder(tmp_path))
    assert all("not proved" in words for words in written.facts["parity"].values())


def test_a_kill_leaves_nothing_that_counts_and_the_next_run_writes_it_whole(tmp_path):
    source, out, fresh = Source(str(small("gpt2"))), Folder(tmp_path / "out"), Folder(tmp_path / "fresh")
    child = os.fork()
    if child == 0:
        Killed(dtype="q8_0", parity_prompts=0).write(source, out)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert not out.exists("model-q8_0.gguf") and list(Path(out.path(WORK)).iterdir())
    for each in (out, fresh):
        Gguf(dtype="q8_0", parity_prompts=0).write(source, each)
    assert out.read("model-q8_0.gguf") == fresh.read("model-q8_0.gguf")


def test_quantized_weights_are_refused_with_what_to_do(tmp_path):
    from shutil import copytree

    folder = copytree(small("llama"), tmp_path / "quantized")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "compressed-tensors", "config_groups": {}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="rounded twice"):
        Gguf().write(Source(str(folder)), Folder(tmp_path / "out"))


def test_a_changed_model_keeps_the_name_and_the_licence_of_its_weights(tmp_path):
    from shutil import copytree

    import gguf

    folder = copytree(small("llama"), tmp_path / "base")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    model: Any = load_model(str(folder))
    changed = Source(str(folder), Changed(model, None, 1, 1, model.dtype))
    with pytest.raises(ConfigError, match=r"under apache-2\.0, not under mit"):
        Gguf(dtype="q8_0", parity_prompts=0, license="mit").write(changed, Folder(tmp_path / "no"))
    Gguf(dtype="q8_0", parity_prompts=0).write(changed, Folder(tmp_path / "out"))
    read = gguf.GGUFReader(tmp_path / "out" / "model-q8_0.gguf")
    said = {
        key: str(field.contents())
        for key in ("general.name", "general.license", "general.base_model.0.name")
        if (field := read.get_field(key))
    }
    assert said == {"general.name": "base", "general.license": "apache-2.0", "general.base_model.0.name": "base"}


def test_a_model_of_a_hub_is_called_as_there(tmp_path):
    assert name_of(tmp_path / "models--owner--small-1B" / "snapshots" / "0123abcd") == "small-1B"
    assert name_of(tmp_path / "mine") == "mine"
