"""The prompt that Ollama makes of a conversation: what it hands to a template (its server/prompt.go, template/template.go)."""

from __future__ import annotations

from typing import Any

from raylm.compress.go_template.execute import GoTemplate
from raylm.compress.go_template.functions import Struct

JOINT = "\n\n"
"""What stands between messages of one role that follow each other."""


def ollama_prompt(template: GoTemplate, messages: list[dict[str, Any]]) -> str:
    """What a template that reads `.Messages` gives for messages as transformers takes them; the last answer is gone on with.

    Raises:
        DataError: the template fails on them.
    """
    collated: list[Struct] = []
    for message in messages:
        role, content = message["role"], message["content"]
        if collated and collated[-1]["Role"] == role and role != "tool":
            collated[-1]["Content"] += JOINT + content
            continue
        thought = message.get("reasoning_content") or ""
        # in the order of api.Message
        collated.append(Struct(Role=role, Content=content, Thinking=thought, Images=[], ToolCalls=[], ToolName=""))
    system = JOINT.join(message["content"] for message in messages if message["role"] == "system")
    values = {"System": system, "Messages": collated, "Tools": [], "Response": "", "Think": False, "IsThinkSet": False}
    return template.render(values)
