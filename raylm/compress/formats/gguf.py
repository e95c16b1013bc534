"""GGUF: one file that llama.cpp and what embeds it (Ollama, LM Studio, KoboldCpp, ...) read; see `raylm.model.gguf`."""

from __future__ import annotations

import contextlib
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

from pydantic import Field

from raylm.compress.formats.source import Source, Written, weight_bytes
from raylm.core.artifact import WORK
from raylm.core.config import Config
from raylm.core.errors import ArtifactError
from raylm.core.storage import Folder
from raylm.model.gguf.types import Dtype

NOISE: dict[str, float] = {"f32": 1e-3, "f16": 2e-2, "bf16": 1e-1}
"""Nats by which arithmetic in the file's dtype moves a log-probability: llama.cpp rounds activations to it, too."""
ROUNDED = ("q8_0", "q4_0", "q4_k_m")
"""Dtypes that are compared with transformers on the same rounded weights, too."""
ROUNDING = 0.2
"""The same for rounded weights, whose greedy tokens need not be equal."""
MOST_KL: dict[str, float] = {"f32": 1e-3, "f16": 1e-3, "bf16": 0.02, "q8_0": 0.1}
"""Mean KL per token that no rounding to the dtype makes."""


class GgufFile(Config):
    """Weights, tokenizer and chat template in one file, proved by running it in every consumer that is installed. What some
    program wants around the file is written by those that inherit from this."""

    takes: ClassVar[tuple[str, ...]] = ("plain",)
    variant: ClassVar[str]
    proved: ClassVar[bool] = True

    dtype: Dtype = "f16"
    """Type of the matrices; `q8_0` 8.5 bits, `q4_k_m` about 4.8, `q4_0` 4.5. Widths that are no multiple of 256 (K-quants) or 32
    get the next larger type, which the facts name."""
    license: str | None = None
    """Licence (a key of the hub: apache-2.0) written into the file; else that on the model card beside the weights."""
    parity_prompts: int = Field(default=64, ge=0)
    """Prompts on which the file is compared with transformers in every consumer; 0: it is not proved."""

    def check_config(self, config: dict[str, Any], where: str) -> None:
        """Raises ConfigError where llama.cpp has no network that computes the same as this config.json."""
        from raylm.model.gguf.architectures import architecture_of

        architecture_of(config, where)

    def write(self, source: Source, out: Folder) -> Written:
        """Write the GGUF file, what stands around it and parity.json to `out`.

        Raises:
            ConfigError: llama.cpp has no such network or tokenizer, or the weights are quantized.
            ArtifactError: a consumer reads the file as another model; nothing is published then.
        """
        from raylm.compress.consumers.parity import FILE, prove
        from raylm.model.checkpoint import publish
        from raylm.model.gguf.write import check_written

        near = (out / WORK).make().uri if out.is_local else None
        with plain_folder(source) as folder, tempfile.TemporaryDirectory(prefix=".gguf-", dir=near) as name:
            at = Path(name)
            file = at / self.file_name()
            file.parent.mkdir(parents=True, exist_ok=True)
            wrote = self.write_file(folder, file)
            check_written(file)
            said = self.write_around(folder, at, file)
            with self.rounded(folder, near) as rounded:
                parity = prove(
                    self.asked(), file.parent, str(folder), list(source.prompts) or None,
                    num_prompts=self.parity_prompts, rounded=rounded,
                )  # fmt: skip
            parity.check(out.uri)
            (at / FILE).write_text(parity.dumps())
            publish(at, out)
            before = weight_bytes(Folder(folder))
        changed = source.changed
        facts: dict[str, Any] = {"dtype": self.dtype, "types": wrote.types, "parity": parity.facts(), **said}
        facts |= {name: value for name, value in (("instead", wrote.fallbacks), ("notes", wrote.notes)) if value}
        sizes = {"bytes_before": before, "bytes_after": weight_bytes(out, ".gguf"), "bits_per_weight": round(wrote.bits(), 3)}
        if changed is None:
            return Written(self.variant, facts, {**sizes, **parity.metrics()})
        return Written(self.variant, {**facts, **changed.facts}, {**sizes, **changed.metrics, **parity.metrics()})

    def file_name(self) -> str:
        """Where in the export the file lies."""
        return f"model-{self.dtype}.gguf"

    def write_around(self, folder: Path, at: Path, file: Path) -> dict[str, Any]:
        """Write to `at` what belongs to `file`, made of the checkpoint in `folder`; returns facts on it."""
        return {}

    def write_file(self, folder: Path, file: Path) -> Any:
        """Write the plain checkpoint in `folder` as `file`; a `raylm.model.gguf.write.Wrote`."""
        from raylm.model.gguf.write import write_gguf

        return write_gguf(folder, file, self.dtype, self.license)

    @contextlib.contextmanager
    def rounded(self, folder: Path, near: str | None) -> Iterator[Path | None]:
        """The checkpoint in `folder` with the values that the file has, for dtypes of few bits; a proof alone needs it."""
        from raylm.model.gguf.rounded import rounded_copy

        if self.dtype not in ROUNDED or not self.parity_prompts:
            yield None
            return
        with tempfile.TemporaryDirectory(prefix=".rounded-", dir=near) as name:
            yield rounded_copy(folder, self.dtype, Path(name) / folder.name)

    def asked(self) -> Any:
        """What its consumers are asked for."""
        from raylm.compress.consumers.parity import Asked

        exact = self.dtype in ("f32", "f16")
        return Asked("gguf", exact, NOISE.get(self.dtype, ROUNDING), MOST_KL.get(self.dtype, 2.0))


class Gguf(GgufFile):
    """One file for llama.cpp, and for all that embeds it."""

    variant: ClassVar[str] = "export:gguf"

    kind: Literal["gguf"] = "gguf"

    def next_step(self, out: str) -> str:
        """What to do with `out`."""
        return f"llama-server -m {shlex.quote(f'{out}/{self.file_name()}')} --jinja"


@contextlib.contextmanager
def plain_folder(source: Source) -> Iterator[Path]:
    """The local folder of the checkpoint to export; one that a method has changed in memory is written first."""
    from raylm.model.checkpoint import write_checkpoint
    from raylm.model.gguf.lineage import name_of
    from raylm.model.load import folder_of

    folder = folder_of(source.path)
    if source.changed is not None:
        called = name_of(folder) if folder else source.path.rpartition("/")[2]
        with tempfile.TemporaryDirectory(prefix="raylm-plain-") as name:
            at, model = Path(name) / called, cast(Any, source.changed.model)
            write_checkpoint(Folder(at), model.config, model.state_dict(), source.path, start=source.path)
            if folder:
                _hand_on(folder, called, at)
            yield at
        return
    if folder is None:
        raise ArtifactError(
            "there is no such checkpoint", where=source.path, next="name a folder, or a hub name you have access to"
        )
    yield folder


def _hand_on(folder: Path, name: str, at: Path) -> None:
    """Write to `at` the licence of the weights that these were made from, and their name."""
    from raylm.model.licence import licence_of

    licence = licence_of(folder)
    head = [f"base_model: {name}", *([f"license: {licence.key}"] if licence.key else [])]
    (at / "README.md").write_text("\n".join(["---", *head, "---", ""]))
    if licence.text:
        (at / "LICENSE").write_text(licence.text)
