"""KoboldCpp: a GGUF file, a .kcpps with its settings, and a chat completions adapter where start and end of turns say it all."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from raylm.compress.formats.gguf import GgufFile
from raylm.compress.formats.lm_studio import PART
from raylm.compress.formats.ollama import adds_bos

USUAL_CONTEXT = 8192


class Koboldcpp(GgufFile):
    """`koboldcpp --config NAME.kcpps`. A template that no adapter can say is left to the program's Jinja (`jinja = true`)."""

    variant: ClassVar[str] = "export:koboldcpp"

    kind: Literal["koboldcpp"] = "koboldcpp"
    name: str = Field(default="model", pattern=PART)
    """Of the files."""

    def file_name(self) -> str:
        return f"{self.name}-{self.dtype}.gguf"

    def write_around(self, folder: Path, at: Path, file: Path) -> dict[str, Any]:
        """Write the settings, and the adapter that was proved on all conversations."""
        from raylm.compress.chat_settings import chat_settings

        settings = chat_settings(folder)
        said: dict[str, Any] = {"model_param": file.name, "contextsize": min(settings.max_length or USUAL_CONTEXT, USUAL_CONTEXT)}
        facts: dict[str, Any] = {}
        if settings.template:
            adapter, proved = find_adapter(settings.tokenizer, adds_bos(file))
            if adapter:
                (at / f"{self.name}.adapter.json").write_text(json.dumps(adapter, indent=2, ensure_ascii=False) + "\n")
                said["chatcompletionsadapter"] = f"{self.name}.adapter.json"
                facts["conversations"] = proved
            else:
                said["jinja"] = True
                facts["adapter"] = "left out: the template is no start and end of turns"
        (at / f"{self.name}.kcpps").write_text(json.dumps(said, indent=2) + "\n")
        return facts

    def next_step(self, out: str) -> str:
        """What to do with `out`."""
        return f"cd {shlex.quote(out)} && koboldcpp --config {self.name}.kcpps"


def find_adapter(tokenizer: Any, bos_added: bool) -> tuple[dict[str, str], int]:
    """Start and end of turns that give the chat template's text, and on how many conversations; {} where there are none."""
    import jinja2

    from raylm.compress.ollama.compose import ChatTemplate
    from raylm.compress.ollama.conversations import conversations
    from raylm.compress.ollama.pieces import Gap, find_pieces
    from raylm.core.errors import ConfigError

    try:
        jinja = ChatTemplate(tokenizer, bos_added)
        gaps = find_pieces(jinja.render, False).gaps
    except ConfigError:
        return {}, 0
    user_end = str(tokenizer.apply_chat_template([{"role": "user", "content": "Zq0x"}], tokenize=False)).rpartition("Zq0x")[2]
    answer_end, turn = jinja.closing(), gaps[Gap("user", "assistant")]
    if not turn.startswith(user_end) or not gaps[Gap("assistant", "user")].startswith(answer_end):
        return {}, 0
    user_start = gaps[Gap("assistant", "user")].removeprefix(answer_end)
    adapter = {
        "user_start": user_start, "user_end": user_end, "assistant_start": turn.removeprefix(user_end),
        "assistant_end": answer_end, "assistant_gen": gaps[Gap("user", "")].removeprefix(user_end),
    }  # fmt: skip
    if (system := gaps.get(Gap("", "system"))) is not None and Gap("system", "user") in gaps:
        adapter |= {"system_start": system, "system_end": gaps[Gap("system", "user")].removesuffix(user_start)}
    proved = 0
    for talk in conversations():
        if talk.continued or (talk.system and "system_start" not in adapter):
            continue
        try:
            expected = jinja.render(talk.messages)
        except jinja2.TemplateError:
            continue
        turns = [f"{adapter[m['role'] + '_start']}{m['content']}{adapter[m['role'] + '_end']}" for m in talk.messages]
        if "".join(turns) + adapter["assistant_gen"] != expected:
            return {}, 0
        proved += 1
    return adapter, proved
