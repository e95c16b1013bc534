"""The folder of a Space: whole, pinned, and nothing private in it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from raylm.core.errors import ConfigError
from raylm.serve.demo import environment, folder
from raylm.serve.demo.folder import SHARED, write_space


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


def test_the_shared_modules_know_no_page():
    names = ", ".join(f"raylm.serve.demo.{name}" for name in SHARED if name != "__init__")
    code = f"import {names}, sys; print({{'gradio', 'streamlit', 'torch', 'ray', 'openai'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "set()", done.stdout + done.stderr
