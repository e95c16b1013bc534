"""What the folders of chat programs say of a checkpoint: its template, sampling, stop words, length, licence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple


class ChatSettings(NamedTuple):
    """Of one checkpoint of Hugging Face's layout."""

    tokenizer: Any
    generation: dict[str, Any]
    """generation_config.json, {} without one."""
    stops: list[str]
    """Texts of the tokens that end an answer."""
    max_length: int | None
    model_type: str
    template: str | None
    """The chat template without {% generation %}, which only transformers knows."""


def chat_settings(folder: Path) -> ChatSettings:
    """Read them from the local checkpoint `folder`."""
    from raylm.model.checkpoint import end_tokens
    from raylm.model.gguf.vocabulary import plain_template
    from raylm.model.limits import positions
    from raylm.model.load import load_config, load_tokenizer
    from raylm.model.preflight import GENERATION

    tokenizer = load_tokenizer(str(folder))
    file = folder / GENERATION
    config: dict[str, Any] = load_config(str(folder)).to_dict()
    template = tokenizer.chat_template
    template = template.get("default") if isinstance(template, dict) else template
    stops = [str(tokenizer.convert_ids_to_tokens(end)) for end in end_tokens(folder, tokenizer)]
    return ChatSettings(
        tokenizer=tokenizer,
        generation=json.loads(file.read_text()) if file.is_file() else {},
        stops=stops,
        max_length=positions(config),
        model_type=str(config["model_type"]),
        template=plain_template(template) if template else None,
    )


def reads_tools(tokenizer: Any) -> bool:
    """Whether the chat template writes the tools that it is given."""
    import jinja2

    tool = {
        "type": "function",
        "function": {"name": "zq_tool", "description": "Zq.", "parameters": {"type": "object", "properties": {}}},
    }
    try:
        said = tokenizer.apply_chat_template(
            [{"role": "user", "content": "a"}], tools=[tool], tokenize=False, add_generation_prompt=True
        )
    except (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError):
        return False
    return "zq_tool" in str(said)
