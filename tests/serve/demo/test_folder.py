"""The folder of a Space: whole, pinned, and nothing private in it."""

from __future__ import annotations

import ast
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from raylm.core.errors import ConfigError
from raylm.serve.demo import environment, folder
from raylm.serve.demo.folder import SHARED, write_space
from tests.browser import browser
from tests.serve.demo.pages import free_port, needs
from tests.serve.demo.scripted import KEY, scripted


def test_a_space_has_what_it_needs_and_no_more(tmp_path):
    written = write_space(tmp_path / "space", "my-model: v2")
    modules = [f"raylm_demo/{name}.py" for name in (*SHARED, "gradio_page")]
    assert written == sorted([".gitignore", "README.md", "app.py", "requirements.txt", *modules])
    readme = (tmp_path / "space" / "README.md").read_text()
    front = readme.split("---")[1]
    assert 'title: "my-model: v2 demo"' in front and "sdk: gradio" in front
    version = re.search(r"sdk_version: (\S+)", front)
    assert version and f"gradio=={version[1]}" in (tmp_path / "space" / "requirements.txt").read_text()
    assert (tmp_path / "space" / "requirements.txt").read_text() == environment.lock_of("gradio").read_text()


def test_a_model_name_writes_no_code_and_no_front_matter(tmp_path):
    write_space(tmp_path / "space", "x'); import os #\n---\nsdk: docker")
    body = ast.parse((tmp_path / "space" / "app.py").read_text()).body
    assert [type(node).__name__ for node in body] == ["Import", "Expr", "ImportFrom", "Expr"]
    assert "\nsdk: docker" not in (tmp_path / "space" / "README.md").read_text()


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(ConfigError, match="not empty"):
        write_space(tmp_path, "m")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("module", [*SHARED, "gradio_page", "streamlit_page"])
def test_what_is_copied_imports_nothing_else_of_raylm(module):
    path = Path(folder.__file__).with_name(f"{module}.py")
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            inside = node.level == 1 and node.module in SHARED
            assert inside or (node.level == 0 and node.module.split(".")[0] != "raylm"), ast.unparse(node)


GRADIO = pytest.mark.skipif(environment.ready("gradio") is None, reason="the packages of the gradio page are not there")


def start_space(folder, **variables):
    """`python app.py` in a Space, which knows nothing of raylm's own folders."""
    python = environment.ready("gradio")
    env = {"PATH": os.environ["PATH"], "HOME": str(folder), **variables}
    return subprocess.Popen([str(python), "app.py"], cwd=folder, env=env, stderr=subprocess.PIPE, text=True)


@pytest.mark.long
@GRADIO
def test_a_space_without_its_secrets_says_which(tmp_path):
    write_space(tmp_path / "space", "m")
    process = start_space(tmp_path / "space")
    _, said = process.communicate(timeout=120)
    assert process.returncode == 1
    assert said.startswith("RAYLM_ENDPOINT is not set: the URL of an OpenAI-compatible endpoint")


@pytest.mark.long
@GRADIO
@needs("gradio")[0]
def test_a_space_answers_by_itself(tmp_path):
    write_space(tmp_path / "space", "my model")
    port = free_port()
    with scripted("tiny") as server:
        # what a Space of Hugging Face says in Gradio's own variables
        listens = {"GRADIO_SERVER_NAME": "127.0.0.1", "GRADIO_SERVER_PORT": str(port)}
        process = start_space(tmp_path / "space", RAYLM_ENDPOINT=server.url, RAYLM_API_KEY=KEY, **listens)
        try:
            with browser() as tab:
                ends = time.monotonic() + 60
                while time.monotonic() < ends and socket.socket().connect_ex(("127.0.0.1", port)):
                    time.sleep(0.1)
                tab.goto(f"http://127.0.0.1:{port}")
                tab.until("document.querySelector('#left input')?.value == 'tiny'")
                tab.shows(".top", "my model")
                tab.fill("#question textarea", "hello")
                tab.press("Enter")
                tab.shows("#chat0", "(tiny, 1 messages)")
        finally:
            process.terminate()
            process.communicate(timeout=30)


def test_the_shared_modules_know_no_page():
    names = ", ".join(f"raylm.serve.demo.{name}" for name in SHARED if name != "__init__")
    code = f"import {names}, sys; print({{'gradio', 'streamlit', 'torch', 'ray', 'openai'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "set()", done.stdout + done.stderr
