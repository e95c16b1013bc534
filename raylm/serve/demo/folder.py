"""The folder that a page runs from, `app.py` beside the demo's own modules: linked for this machine, copied for a Hugging Face
Space.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from raylm.core.errors import ConfigError
from raylm.serve.demo import environment

PACKAGE = "raylm_demo"
SHARED = ("__init__", "sampling", "answers", "conversation", "spans", "places", "look", "guard")
"""Modules that both pages stand on. They import nothing else of raylm, so that a Space needs no more than a copy of them."""
_APPS = {
    "gradio": {"app.py": "from raylm_demo.gradio_page import main\n\nmain()\n"},
    "streamlit": {
        "app.py": "from pathlib import Path\n\nfrom raylm_demo.streamlit_page import main\n\n"
        "main(Path(__file__).with_name('chat.py'))\n",
        "chat.py": "from raylm_demo.streamlit_page import show\n\nshow()\n",
    },
}
_README = """---
title: {title}
emoji: 💬
colorFrom: blue
colorTo: gray
sdk: gradio
sdk_version: {version}
python_version: "3.11"
app_file: app.py
pinned: false
---

# {name}

A chat with {name}, served by raylm: sampling, token probabilities, two models side by side.

This folder holds neither the endpoint's address nor its key. Set them under *Settings, Variables and secrets* of the Space:

| secret | what it is |
|---|---|
| `RAYLM_ENDPOINT` | URL of the endpoint, with `/v1`; the Space must reach it, by HTTPS |
| `RAYLM_API_KEY` | its key; one for the Space alone (`raylm keys add ENDPOINT space`) has its own limits and can be revoked |
| `RAYLM_MODEL` | optional: the model that is chosen first |
| `RAYLM_ENDPOINT_2`, `RAYLM_API_KEY_2`, `RAYLM_MODEL_2` | optional: a second endpoint, to compare |

Only the Space's own process reads them; the browser never does. Whoever opens the Space spends the key's tokens: keep the Space
private, or give the key a limit (`guards` of the serve stage).

On any machine: `pip install -r requirements.txt && RAYLM_ENDPOINT=http://127.0.0.1:8000/v1 RAYLM_API_KEY=... python app.py`
"""


def link(folder: Path, page: str) -> Path:
    """A folder to run `page` from on this machine; what it needs stays where it is."""
    (folder / PACKAGE).symlink_to(Path(__file__).parent, target_is_directory=True)
    for name, text in _APPS[page].items():
        (folder / name).write_text(text)
    return folder


def write_space(folder: Path, model: str) -> list[str]:
    """A Space of `model`; names of the files that were written. Nothing in it names an endpoint.

    Raises:
        ConfigError: the folder holds something already.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError("this folder is not empty", where=str(folder), next="name a new one, or empty it")
    (folder / PACKAGE).mkdir(parents=True, exist_ok=True)
    for module in (*SHARED, "gradio_page"):
        shutil.copyfile(Path(__file__).parent / f"{module}.py", folder / PACKAGE / f"{module}.py")
    pins = environment.lock_of("gradio").read_text()
    version = re.search(r"^gradio==(\S+)$", pins, re.MULTILINE)
    assert version is not None
    name = " ".join(re.sub(r"[^\w .:/-]", "", model).split()) or "raylm"
    # JSON is YAML, whatever the name holds
    readme = _README.format(title=json.dumps(f"{name} demo"), version=version[1], name=name)
    # the model goes by the Space's secrets; its name is the page's title alone
    app = f"import os\n\nos.environ.setdefault('RAYLM_DEMO_TITLE', {name!r})\n\n{_APPS['gradio']['app.py']}"
    files = {"README.md": readme, "app.py": app, "requirements.txt": pins, ".gitignore": "__pycache__/\n.env\n"}
    for file, text in files.items():
        (folder / file).write_text(text, encoding="utf-8")
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
