"""The prompts that settings are tried on: a file of the user's, or what an endpoint's clients asked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from raylm.core.errors import DataError
from raylm.core.storage import Folder
from raylm.serve.audit import audit_folder

MOST = 64
"""Prompts that are taken, evenly over all there are."""


def read_prompts(path: str) -> list[Any]:
    """Texts, or lists of messages: a line each, plain or JSON (a string, `{"prompt": ...}` or `{"messages": [...]}`).

    Raises:
        DataError: there is no such file, or no prompt in it.
    """
    at = Path(path).expanduser()
    if not at.is_file():
        raise DataError("there is no such file", where=path, next="name a file with a prompt a line")
    found = [_prompt(line, f"{path}:{number}") for number, line in enumerate(at.read_text().splitlines(), 1) if line.strip()]
    if not found:
        raise DataError("the file has no prompt", where=path)
    return spread(found)


def read_audit(endpoint: str) -> list[Any]:
    """What clients of an endpoint asked, where its audit log keeps text.

    Raises:
        DataError: it keeps none, or nobody asked.
    """
    folder = Path(audit_folder(Folder(endpoint)))
    found = [prompt for file in sorted(folder.glob("*.jsonl")) for prompt in _asked(file)] if str(folder) != "." else []
    if not found:
        raise DataError(
            "the audit log has no text of a request",
            where=str(folder),
            next="serve with audit = {text = true}, or give --prompts FILE",
        )
    return spread(found)


def spread(found: list[Any]) -> list[Any]:
    """At most `MOST` of them, evenly over all."""
    return [found[at * len(found) // MOST] for at in range(MOST)] if len(found) > MOST else found


def encoded(prompts: list[Any], tokenizer: Any, room: int) -> list[list[int]]:
    """Token ids of each: messages by the chat template, a text too where there is one (an endpoint's chat), else as it stands.
    Those that leave no room for an answer are left out.

    Raises:
        DataError: none is left.
    """
    chats = bool(getattr(tokenizer, "chat_template", None))
    found = []
    for prompt in prompts:
        if isinstance(prompt, str) and not chats:
            tokens = tokenizer(prompt)["input_ids"]
        else:
            turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
            tokens = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=True)["input_ids"]
        if 0 < len(tokens) <= room:
            found.append(list(tokens))
    if not found:
        raise DataError(f"none of {len(prompts)} prompts leaves room for an answer: {room} tokens are possible")
    return found


def _prompt(line: str, where: str) -> Any:
    if line.lstrip()[:1] not in ('"', "{"):
        return line
    try:
        value = json.loads(line)
    except ValueError:
        return line
    if isinstance(value, str):
        return value
    if isinstance(value.get("messages"), list):
        return value["messages"]
    if isinstance(value.get("prompt"), str):
        return value["prompt"]
    raise DataError("no prompt: a text, {prompt = ...} or {messages = [...]} is needed", where=where)


def _asked(file: Path) -> Iterator[Any]:
    for line in file.read_text().splitlines():
        try:
            entry = json.loads(line)
            body = json.loads(entry.get("body") or "null")
        except ValueError:
            continue  # the last line of a killed process, or a body that was cut
        if not isinstance(body, dict):
            continue
        turns = body.get("messages")
        # what was refused stands there too
        if isinstance(turns, list) and all(isinstance(turn, dict) and isinstance(turn.get("content"), str) for turn in turns):
            yield turns
        elif isinstance(body.get("prompt"), str):
            yield body["prompt"]
