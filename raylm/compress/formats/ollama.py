"""Ollama: a GGUF file and a Modelfile whose Go template gives what the chat template gives, on fifty conversations."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any, ClassVar, Literal

from raylm.compress.formats.gguf import GgufFile

FILE = "Modelfile"


class Ollama(GgufFile):
    """For `ollama create`. Stop words, sampling and length come from the checkpoint, the licence from its lineage."""

    variant: ClassVar[str] = "export:ollama"

    kind: Literal["ollama"] = "ollama"

    def write_around(self, folder: Path, at: Path, file: Path) -> dict[str, Any]:
        """Write the Modelfile. Raises ConfigError with the first conversation that no Go template was found for."""
        from raylm.compress.chat_settings import chat_settings, reads_tools
        from raylm.compress.ollama.compose import compose
        from raylm.compress.ollama.modelfile import modelfile, parameters
        from raylm.model.licence import licence_of

        settings = chat_settings(folder)
        made = compose(settings.tokenizer, adds_bos(file))
        licence = licence_of(folder, self.license)
        commands = parameters(settings.generation, settings.stops, settings.max_length)
        (at / FILE).write_text(modelfile(file.name, made.template, commands, licence.texts()))
        facts: dict[str, Any] = {"conversations": made.conversations}
        if made.refused:
            facts["conversations_refused"] = made.refused
        if reads_tools(settings.tokenizer):
            # Go writes JSON without the spaces that the model has learned: Ollama then says that it takes no tools
            facts["tools"] = "left out of the Go template"
        return facts

    def next_step(self, out: str) -> str:
        """What to do with `out`."""
        return f"ollama create {shlex.quote(Path(out).name)} -f {shlex.quote(f'{out}/{FILE}')}"


def adds_bos(file: Path) -> bool:
    """Whether programs put the first token before each prompt of this GGUF file."""
    import gguf

    field = gguf.GGUFReader(file).get_field("tokenizer.ggml.add_bos_token")
    return bool(field.contents()) if field else True
