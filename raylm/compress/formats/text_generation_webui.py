"""text-generation-webui (oobabooga): `user_data/models/NAME.gguf`, its instruction template and its settings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from raylm.compress.formats.gguf import GgufFile
from raylm.compress.formats.lm_studio import PART
from raylm.core.errors import ConfigError

SETTINGS = "config-user.yaml"
SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")


class TextGenerationWebui(GgufFile):
    """Copied over the program's folder, with the lines of config-user.yaml added to its own."""

    variant: ClassVar[str] = "export:text_generation_webui"

    kind: Literal["text_generation_webui"] = "text_generation_webui"
    name: str = Field(default="model", pattern=PART)
    """The model's name in the program."""

    def file_name(self) -> str:
        return f"user_data/models/{self.name}-{self.dtype}.gguf"

    def write_around(self, folder: Path, at: Path, file: Path) -> dict[str, Any]:
        """Write the template and the settings. Raises ConfigError where the template, as the program renders it, says
        something else than transformers."""
        import yaml

        from raylm.compress.chat_settings import chat_settings

        settings = chat_settings(folder)
        said: dict[str, Any] = {"loader": "llama.cpp"}
        facts: dict[str, Any] = {}
        if settings.max_length:
            said["ctx_size"] = settings.max_length
        if settings.template:
            template = with_tokens(settings.template, settings.tokenizer)
            facts["conversations"] = same_text(template, settings.tokenizer)
            lies = at / "user_data" / "instruction-templates" / f"{self.name}.yaml"
            lies.parent.mkdir(parents=True)
            lies.write_text(yaml.dump({"instruction_template": template}, Dumper=_dumper(), allow_unicode=True))
            said |= {
                "instruction_template": self.name,
                "custom_stopping_strings": ", ".join(f'"{stop}"' for stop in settings.stops),
            }
        said |= sampling(settings.generation)
        lines = yaml.safe_dump({f"^{re.escape(file.name)}$": said}, sort_keys=False, allow_unicode=True)
        (at / SETTINGS).write_text("# add these lines to user_data/models/config-user.yaml\n" + lines)
        return facts

    def next_step(self, out: str) -> str:
        """What to do with `out`."""
        there = "~/text-generation-webui"
        return f"cp -r {out}/user_data {there}/ && cat {out}/{SETTINGS} >> {there}/user_data/models/{SETTINGS}"


def sampling(generation: dict[str, Any]) -> dict[str, Any]:
    """What of generation_config.json the program takes: where it says that nothing is drawn, temperature and the like are of no
    effect in transformers, and the likeliest token is what `top_k` of 1 leaves."""
    found = {key: generation[key] for key in SAMPLING if generation.get(key) is not None}
    if generation.get("do_sample") is False:
        found = {key: found[key] for key in ("repetition_penalty",) if key in found} | {"top_k": 1}
    return found


def with_tokens(template: str, tokenizer: Any) -> str:
    """The template with the texts of the special tokens that it names: the program gives it none of a file's."""
    head = ""
    for name in ("bos_token", "eos_token", "unk_token", "pad_token"):
        value = getattr(tokenizer, name, None)
        if value and re.search(rf"\b{name}\b", template):
            text = str(value).replace("\\", "\\\\").replace("'", "\\'")
            head += f"{{% set {name} = '{text}' %}}"
    return head + template


def same_text(template: str, tokenizer: Any) -> int:
    """How many conversations the template renders as transformers does, where it stands alone. Raises ConfigError on the first
    that differs."""
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    from raylm.compress.ollama.conversations import conversations

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = refuse
    compiled = environment.from_string(template)
    equal = 0
    for number, talk in enumerate(conversations()):
        if talk.continued:
            continue
        try:
            expected = str(tokenizer.apply_chat_template(talk.messages, tokenize=False, add_generation_prompt=True))
        except jinja2.TemplateError:
            continue
        try:
            found = compiled.render(messages=talk.messages, add_generation_prompt=True, tools=None, builtin_tools=None)
        except jinja2.TemplateError as cause:
            found = str(cause)
        if found != expected:
            raise ConfigError(
                f"the chat template needs what only transformers gives it: conversation {number} becomes {found[:120]!r}, not "
                f"{expected[:120]!r}",
                next="export to gguf",
            )
        equal += 1
    return equal


def _dumper() -> Any:
    """Templates as blocks of text, which people can read; what has no such form is quoted."""
    import yaml

    class Dumper(yaml.SafeDumper):
        pass

    def block(dumper: Any, text: str) -> Any:
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)

    Dumper.add_representer(str, block)
    return Dumper
