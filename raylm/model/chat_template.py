"""The chat template of a tokenizer and its hash: rows, checkpoint and endpoint must have been rendered by one."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

_FILE, _MORE, _CONFIG = "chat_template.jinja", "additional_chat_templates", "tokenizer_config.json"


def sha256_of(template: str | dict[str, str] | None) -> str | None:
    """Hash of a tokenizer's `chat_template`, as hex: its text, or a name and text each of several. None without one."""
    if not template:
        return None
    if isinstance(template, dict):
        if list(template) == ["default"]:
            return sha256_of(template["default"])
        template = json.dumps(template, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(template.encode()).hexdigest()


def written_template(folder: Path) -> str | dict[str, str] | None:
    """The chat template in a tokenizer's local folder, as transformers reads it: files before tokenizer_config.json."""
    found = {"default": folder / _FILE} | {path.stem: path for path in sorted((folder / _MORE).glob("*.jinja"))}
    texts = {name: path.read_text() for name, path in found.items() if path.is_file()}
    if texts:
        return texts["default"] if list(texts) == ["default"] else texts
    config: Any = json.loads((folder / _CONFIG).read_text()) if (folder / _CONFIG).is_file() else {}
    written = config.get("chat_template")
    return {each["name"]: each["template"] for each in written} if isinstance(written, list) else written


def other_template(facts: dict[str, Any], model: str) -> str:
    """What the template of the rows with these facts and that beside a model in a local folder are; "" where they are one, or
    one of them has none."""
    rows = facts.get("chat_template_sha256")
    own = sha256_of(written_template(Path(model))) if Path(model).is_dir() else None
    if rows is None or own is None or rows == own:
        return ""
    return f"the rows were rendered by the chat template {rows[:12]}, beside the model lies {own[:12]}"
