"""Ollama's Modelfile: what stands in it, and how Ollama reads it (its parser/parser.go)."""

from __future__ import annotations

from typing import Any, NamedTuple

from raylm.core.errors import ConfigError

USUAL_CONTEXT = 4096
"""Tokens that Ollama gives a model of which nothing is said; one that was made for fewer must say so."""
# sampling that transformers does where generation_config.json names none of it
USUAL_SAMPLING = {"temperature": 1.0, "top_k": 50, "top_p": 1.0}
NAMES = {
    "temperature": "temperature", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p",
    "repetition_penalty": "repeat_penalty", "max_new_tokens": "num_predict",
}  # fmt: skip
"""Keys of generation_config.json, and what Ollama calls them."""


class Command(NamedTuple):
    """One of a Modelfile: `PARAMETER stop x` is ("stop", "x")."""

    name: str
    value: str


def parameters(generation: dict[str, Any], stops: list[str], max_length: int | None) -> list[Command]:
    """PARAMETER lines of a model.

    Args:
        generation: its generation_config.json.
        stops: texts that end an answer.
        max_length: the most tokens that it was made for.
    """
    said = {key: generation[key] for key in NAMES if generation.get(key) is not None}
    if generation.get("do_sample") is False:
        said = {**{key: said[key] for key in ("repetition_penalty", "max_new_tokens") if key in said}, "temperature": 0}
    elif generation.get("do_sample"):
        said = {**USUAL_SAMPLING, **said}
    if said:
        # transformers punishes no repetition where nothing says so, Ollama does by 1.1
        said.setdefault("repetition_penalty", 1.0)
    found = [Command(NAMES[key], str(value) if isinstance(value, int) else f"{value:g}") for key, value in said.items()]
    if max_length and max_length < USUAL_CONTEXT:
        found.append(Command("num_ctx", str(max_length)))
    return [*found, *(Command("stop", each) for each in stops)]


def modelfile(gguf: str, template: str, commands: list[Command], licences: list[str]) -> str:
    """The text of a Modelfile.

    Args:
        gguf: name of the file beside it.
        commands: of `parameters`.
        licences: texts or names.

    Raises:
        ConfigError: Ollama would read something else than what was meant.
    """
    meant = [
        Command("model", f"./{gguf}"), Command("template", template), *commands,
        *(Command("license", text) for text in licences),
    ]  # fmt: skip
    words = {"model": "FROM", "template": "TEMPLATE", "license": "LICENSE"}
    lines = [f"{words.get(name, f'PARAMETER {name}')} {_quoted(name, value)}" for name, value in meant]
    text = "\n".join(lines) + "\n"
    for wanted, found in zip(meant, [*read_modelfile(text), *[Command("", "")] * len(meant)], strict=False):
        if wanted != found:
            raise ConfigError(f"Ollama would not read {wanted.name} as it is: {wanted.value[:80]!r} becomes {found.value[:80]!r}")
    return text


def _quoted(name: str, value: str) -> str:
    plain = value and name not in ("template", "stop", "license") and not set(value) & set(' \t\r\n"')
    return value if plain else f'"""{value}"""'


def read_modelfile(text: str) -> list[Command]:
    """The commands as Ollama reads them: what it cannot print is lost, quotes hold until they close."""
    found, name, value = [], "", ""
    for character in [*text, "\n"]:
        if character not in " \t\r\n":
            value += character if character.isprintable() else ""
            continue
        if not name:
            # a comment lasts as long as its line
            if value.startswith("#") and character in " \t":
                value += character
            elif value.startswith("#"):
                value = ""
            elif value:
                name, value = _command(value), ""
            continue
        if name == "parameter":
            name, value = (value, "") if value else (name, value)
            continue
        whole, inner = _unquoted(value.strip())
        if not whole or character in " \t":
            value += character
        elif value.strip():
            found.append(Command(name, inner))
            name, value = "", ""
    if name:
        raise ConfigError(f"the Modelfile ends inside {name}")
    return found


def _command(word: str) -> str:
    known = ("from", "license", "template", "system", "adapter", "parameter", "message")
    if word.lower() not in known:
        raise ConfigError(f"a Modelfile has no command {word!r}")
    return "model" if word.lower() == "from" else word.lower()


def _unquoted(value: str) -> tuple[bool, str]:
    """Whether the quotes of a value are closed, and what is between them."""
    for mark in ('"""', '"'):
        if value.startswith(mark):
            whole = len(value) >= 2 * len(mark) and value.endswith(mark)
            return whole, value[len(mark) : -len(mark)] if whole else ""
    return True, value
