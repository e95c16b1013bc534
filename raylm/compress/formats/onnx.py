"""ONNX as onnxruntime-genai runs it: model.onnx, genai_config.json, tokenizer and chat template.

checkpoint --> its model builder, in a process of its own --> ends and template set --> run beside transformers
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from raylm.compress.formats.gguf import plain_folder
from raylm.compress.formats.source import Source, Written, weight_bytes
from raylm.core.artifact import WORK
from raylm.core.config import Config
from raylm.core.errors import ArtifactError, ConfigError
from raylm.core.storage import Folder

ARCHITECTURES = (
    "Ernie4_5ForCausalLM", "GemmaForCausalLM", "Gemma2ForCausalLM", "Gemma3ForCausalLM", "GptOssForCausalLM",
    "GraniteForCausalLM", "HunYuanDenseV1ForCausalLM", "InternLM2ForCausalLM", "Lfm2ForCausalLM", "LlamaForCausalLM",
    "MistralForCausalLM", "NemotronForCausalLM", "OlmoForCausalLM", "Phi3ForCausalLM", "PhiForCausalLM", "Qwen2ForCausalLM",
    "Qwen3ForCausalLM", "SmolLM3ForCausalLM",
)  # fmt: skip
"""Language models that the builder of onnxruntime-genai 0.18 knows, by the class that config.json names."""
NOISE: dict[str, float] = {"fp32": 1e-3, "fp16": 2e-2}
"""Nats by which arithmetic in this precision moves a log-probability."""
MOST_KL: dict[str, float] = {"fp32": 1e-3, "fp16": 1e-3, "int8": 0.2}
BITS = {"int8": 8, "int4": 4}
BUILD_S = 4 * 3600


class Onnx(Config):
    """For onnxruntime-genai and, with a loop of one's own, every ONNX Runtime (Python, C#, Java, node)."""

    takes: ClassVar[tuple[str, ...]] = ("plain",)
    variant: ClassVar[str] = "export:onnx"
    proved: ClassVar[bool] = True

    kind: Literal["onnx"] = "onnx"
    precision: Literal["fp32", "fp16", "int8", "int4"] = "fp32"
    """Weights and activations; `int8` and `int4` round weights alone, in blocks of 32."""
    parity_prompts: int = Field(default=64, ge=0)
    """Prompts on which the files are compared with transformers in every consumer; 0: they are not proved."""

    def check_config(self, config: dict[str, Any], where: str) -> None:
        """Raises ConfigError, with the names of those that it knows, where the builder does not know the model."""
        named = next(iter(config.get("architectures") or ()), str(config.get("model_type")))
        if named not in ARCHITECTURES:
            known = ", ".join(ARCHITECTURES)
            raise ConfigError(
                f"onnxruntime-genai's builder has no {named}", where=where, next=f"export to gguf; it knows {known}"
            )

    def write(self, source: Source, out: Folder) -> Written:
        """Write model.onnx and what belongs to it to `out`.

        Raises:
            ConfigError: the builder knows no such network, or cannot be run.
            ArtifactError: a consumer reads the files as another model; nothing is published then.
        """
        from raylm.compress.consumers.parity import FILE, prove
        from raylm.model.checkpoint import publish
        from raylm.model.load import load_config
        from raylm.model.preflight import check_plain

        near = (out / WORK).make().uri if out.is_local else None
        with plain_folder(source) as folder, tempfile.TemporaryDirectory(prefix=".onnx-", dir=near) as name:
            at = Path(name) / "onnx"
            config = load_config(str(folder)).to_dict()
            check_plain(config, str(folder))
            self.check_config(config, str(folder))
            self.build(folder, at)
            rounded = None
            if self.precision in BITS and self.parity_prompts:
                rounded = rounded_copy(folder, BITS[self.precision], Path(name) / "rounded" / folder.name)
            parity = prove(
                self.asked(), at, str(folder), list(source.prompts) or None, num_prompts=self.parity_prompts, rounded=rounded
            )
            parity.check(out.uri)
            (at / FILE).write_text(parity.dumps())
            publish(at, out)
            before = weight_bytes(Folder(folder))
        facts = {"precision": self.precision, "parity": parity.facts(), **(source.changed.facts if source.changed else {})}
        sizes = {"bytes_before": before, "bytes_after": weight_bytes(out, (".onnx", ".data")), **parity.metrics()}
        return Written(self.variant, facts, {**sizes, **(source.changed.metrics if source.changed else {})})

    def asked(self) -> Any:
        """What its consumers are asked for."""
        from raylm.compress.consumers.parity import Asked

        return Asked("onnx", self.precision in NOISE, NOISE.get(self.precision, 0.2), MOST_KL.get(self.precision, 2.0))

    def build(self, folder: Path, at: Path) -> None:
        """Run the builder on the local checkpoint `folder`; its files come to `at`."""
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        with tempfile.TemporaryDirectory(prefix="raylm-onnx-") as cache:
            command = [
                sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(folder), "-o", str(at), "-p", self.precision,
                "-e", "cpu", "-c", cache, "--extra_options", "hf_token=false",
            ]  # fmt: skip
            try:
                done = subprocess.run(
                    command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", timeout=BUILD_S,
                    check=False, env=environment, stdin=subprocess.DEVNULL,
                )  # fmt: skip
            except subprocess.TimeoutExpired as cause:
                raise ConfigError(
                    f"onnxruntime-genai's builder was not done after {BUILD_S:g} s",
                    where=str(folder),
                    next="try it on a machine with more memory and cores, or export to gguf",
                ) from cause
        if done.returncode or not (at / "genai_config.json").is_file():
            lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
            raise ConfigError(f"onnxruntime-genai's builder failed: {' | '.join(lines[-2:])[-600:]}", where=str(folder))
        drop_wrong_shapes(at / "model.onnx")
        complete(folder, at)

    def next_step(self, out: str) -> str:
        """What to do with `out`."""
        return f"in onnxruntime-genai's examples: python model-chat.py -m {shlex.quote(out)} -e cpu"


def rounded_copy(folder: Path, bits: int, to: Path) -> Path:
    """Write the checkpoint in the local `folder` to the new folder `to`, matrices as the builder rounds them (in blocks of 32,
    the largest of each at the lower end of the integers); an embedding only where it is the output head, too."""
    from raylm.model.changed_copy import changed_copy
    from raylm.model.load import load_config

    tied = bool(load_config(str(folder)).to_dict().get("tie_word_embeddings"))

    def change(name: str, tensor: Any) -> Any:
        if tensor.dim() != 2 or not name.endswith(".weight") or ("embed_tokens" in name and not tied):
            return tensor
        import torch

        width = tensor.shape[1]
        blocks = torch.nn.functional.pad(tensor.float(), (0, -width % 32)).unflatten(1, (-1, 32))
        low = -(2 ** (bits - 1))
        scale = blocks.gather(2, blocks.abs().argmax(-1, keepdim=True)) / low
        scale = torch.where(scale == 0, 1.0, scale)
        whole = (blocks / scale).round().clamp(low, -low - 1)
        return (whole * scale).flatten(1)[:, :width].to(tensor.dtype)

    return changed_copy(folder, to, change)


def drop_wrong_shapes(file: Path) -> None:
    """Drop the shapes that the builder declares where it repeats keys and values for several query heads (16 bits on CPUs, whose
    attention takes no groups): it gives the whole sequence the length of what is new of it, and ONNX Runtime then keeps both in
    one buffer: `Shape mismatch attempting to re-use buffer`. Without them it infers them itself."""
    import onnx

    model = onnx.load(str(file), load_external_data=False)
    kept = [each for each in model.graph.value_info if "/repeat_kv/" not in each.name]
    if len(kept) < len(model.graph.value_info):
        del model.graph.value_info[:]
        model.graph.value_info.extend(kept)
        onnx.save(model, str(file))


def complete(folder: Path, at: Path) -> None:
    """Set what the builder leaves out: every token that ends an answer, and the chat template where programs look for it."""
    from raylm.model.checkpoint import end_tokens
    from raylm.model.gguf.vocabulary import plain_template
    from raylm.model.load import load_tokenizer

    tokenizer = load_tokenizer(str(folder))
    file = at / "genai_config.json"
    config: dict[str, Any] = json.loads(file.read_text())
    ends = end_tokens(folder, tokenizer)
    if not ends:
        raise ArtifactError(
            "no token ends an answer of this model", where=str(folder), next="name eos_token_id in generation_config.json"
        )
    config["model"]["eos_token_id"] = ends if len(ends) > 1 else ends[0]
    file.write_text(json.dumps(config, indent=4) + "\n")
    template = tokenizer.chat_template
    if isinstance(template, str):
        # others than transformers read it from one of these two files, and know no {% generation %}
        plain = plain_template(template)
        (at / "chat_template.jinja").write_text(plain)
        settings = json.loads((at / "tokenizer_config.json").read_text())
        (at / "tokenizer_config.json").write_text(
            json.dumps({**settings, "chat_template": plain}, indent=2, ensure_ascii=False) + "\n"
        )
