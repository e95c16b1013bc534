"""The house: floors and circles, lengths, light imports, one test per card."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "raylm").rglob("*.py"))
VERBS = ("prepare", "tokenize", "train", "rl", "compress", "generate", "evaluate", "serve")
NOUNS = ("data", "model", "parallel", "trainer", "inference")
# nouns stand on each other in one order: trainer and inference -> parallel -> data and model
BELOW = {"parallel": ("model",), "trainer": ("parallel", "model", "data"), "inference": ("model",)}

# the walker names the stage that failed; ranks and their thread at the driver report what failed; a dashboard ends no run;
# no exception of vLLM's may leave a replica, whatever its class
BLIND = ("serve/engine/plain.py", "job.py", "parallel/group/ranks.py", "parallel/group/driver.py", "trainer/watch/watch.py")


def module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module(source) for source in SOURCES}


@cache
def nodes(path: Path) -> list[ast.AST]:
    """All nodes of a file's syntax tree, which all rules read."""
    return list(ast.walk(ast.parse(path.read_text())))


@pytest.fixture(scope="module", autouse=True)
def _read_once():
    """Two million nodes are kept for the rules alone: every collection of garbage would look at them."""
    yield
    nodes.cache_clear()


def test_every_rule_sees_every_file():
    assert len(SOURCES) > 400 and all(nodes(path) for path in SOURCES)


@cache
def imports(path: Path) -> set[str]:
    """Modules of raylm that a file imports, inside functions and under TYPE_CHECKING too."""
    found = set()
    for node in nodes(path):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "raylm":
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else str(node.module) for name in names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "raylm"}
    return found


def room(name: str) -> str:
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else ""


def test_nothing_imports_upward_or_sideways():
    found = []
    for path in SOURCES:
        here = room(module(path))
        allowed = {"core": ("core", "")} | {noun: ("core", noun, "", *BELOW.get(noun, ())) for noun in NOUNS}
        allowed |= {verb: ("core", verb, "", *NOUNS) for verb in VERBS}
        if here in allowed:
            found += [f"{module(path)} imports {name}" for name in imports(path) if room(name) not in allowed[here]]
    assert not found, "\n".join(found)


def test_no_circles():
    # imports inside functions too: they are how a circle is hidden; and two files that must know each other's types are one
    graph = {module(path): imports(path) - {module(path)} for path in SOURCES}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"circle: {' -> '.join([*trail, name])}"
        if name not in done:
            for other in sorted(graph.get(name, ())):
                visit(other, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


# beside `*_private.py`: what these use of DeepSpeed, fsspec and py3langid stands nowhere else
PRIVATE = ("parallel/zero/state.py", "core/storage.py", "prepare/score/language.py")
# methods of named tuples, dicts of torch's modules, and the end of a process
USUAL = {"_replace", "_asdict", "_fields", "_parameters", "_buffers", "_exit"}


def test_private_interfaces_of_libraries_stand_in_one_file_each():
    all_nodes = [(path, node) for path in SOURCES for node in nodes(path)]
    own = {node.name for _, node in all_nodes if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef))}
    own |= {node.attr for _, node in all_nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)}
    own |= {node.target.id for _, node in all_nodes if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)}
    free = {path for path in SOURCES if path.name.endswith("_private.py") or str(path.relative_to(ROOT / "raylm")) in PRIVATE}
    for path, node in all_nodes:
        if not isinstance(node, (ast.Attribute, ast.ImportFrom)) or path in free:
            continue
        names = [node.attr] if isinstance(node, ast.Attribute) else []
        if isinstance(node, ast.ImportFrom) and not (node.module or "").startswith(("raylm", "__")):
            names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
        private = [name for name in names if name == "_internal" or (name[:1] == "_" and name[:2] != "__" and name != "_")]
        if private:
            assert not set(private) - own - USUAL, f"{path.relative_to(ROOT)}:{node.lineno} uses {private}"


def test_files_and_functions_are_short():
    found = []
    for path in SOURCES:
        if (lines := len(path.read_text().splitlines())) > 400:
            found.append(f"{module(path)} has {lines} lines")
        for node in nodes(path):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                length = (node.end_lineno or 0) - node.lineno + 1
                if length > 80:
                    found.append(f"{module(path)}: {node.name} has {length} lines")
    assert not found, "\n".join(found)


def test_every_module_says_what_it_takes_and_leaves():
    silent = [module(path) for path in SOURCES if path.read_text().strip() and not ast.get_docstring(nodes(path)[0])]  # type: ignore[arg-type]
    assert not silent, "no module docstring: " + ", ".join(silent)


def test_no_rooms_for_odds_and_ends_and_no_blind_except():
    found = []
    for path in SOURCES:
        if {"utils", "common", "helpers", "misc", "manager"} & set(module(path).split(".")):
            found.append(module(path))
        if str(path.relative_to(ROOT / "raylm")) in BLIND:
            continue
        for node in nodes(path):
            if isinstance(node, ast.ExceptHandler):
                names = ast.unparse(node.type) if node.type else "everything"
                if names in ("Exception", "BaseException", "everything"):
                    found.append(f"{module(path)}:{node.lineno} catches {names}")
    assert not found, "\n".join(found)


def test_verbs_are_built_alike():
    for verb in VERBS:
        folder = ROOT / "raylm" / verb
        for name in ("config.py", "stage.py", "README.md"):
            assert (folder / name).is_file(), f"{verb}/{name}"
        assert len((folder / "README.md").read_text().splitlines()) <= 60, f"{verb}/README.md is long"


@pytest.mark.parametrize("name", ["raylm.job", "raylm.cli", "raylm.view", "raylm.doctor", "raylm.chat", "raylm.serve.config"])
def test_planning_is_light(name):
    heavy = ["torch", "ray", "vllm", "transformers", "deepspeed", "peft", "datasets", "pyarrow", "numpy", "tokenizers"]
    code = f"import {name}, sys; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def cards() -> list[tuple[str, str]]:
    """(folder, file) of every member of every union in an `__init__.py`."""
    found = []
    for init in sorted((ROOT / "raylm").rglob("__init__.py")):
        for imported in sorted(imports(init)):
            if not imported.startswith("raylm.core"):
                found.append(imported.split(".", 1)[1].rsplit(".", 1))
    return [(folder.replace(".", "/"), name) for folder, name in found]


def test_every_card_has_a_test():
    wanted = [f"tests/{folder}/test_{name}.py" for folder, name in cards()]
    missing = [path for path in wanted if not (ROOT / path).is_file()]
    assert not missing, "\n".join(missing)


def test_every_card_is_found():
    assert len(cards()) >= 20


def unions() -> set[str]:
    """Classes of cards: what the `__init__` files with unions import."""
    found = set()
    for init in sorted((ROOT / "raylm").rglob("__init__.py")):
        for node in ast.parse(init.read_text()).body:
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith(module(init)):
                found |= {alias.name for alias in node.names if alias.name[0].isupper()}
    return found


def by_name(node: ast.AST) -> bool:
    """Whether this asks for the name of a card: `x.kind == "dpo"`, `x.kind in (...)`, `TABLE[x.kind]`, `{...}.get(x.kind)`."""

    def kind(value: ast.AST) -> bool:
        if isinstance(value, ast.Call) and ast.unparse(value.func) == "getattr":
            return "'kind'" in map(ast.unparse, value.args[1:2])
        return isinstance(value, ast.Attribute) and value.attr == "kind"

    def named(value: ast.AST) -> bool:
        parts = value.elts if isinstance(value, (ast.Tuple, ast.List, ast.Set)) else [value]
        return bool(parts) and all(isinstance(part, ast.Constant) and isinstance(part.value, str) for part in parts)

    if isinstance(node, ast.Compare):
        sides = [node.left, *node.comparators]
        return any(map(kind, sides)) and any(map(named, sides))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get":
        return isinstance(node.func.value, (ast.Dict, ast.Name)) and any(map(kind, node.args[:1]))
    # a table that is written down; KINDS has the classes of artifacts
    tables = isinstance(node, ast.Subscript) and ast.unparse(node.value).isupper() and ast.unparse(node.value) != "KINDS"
    return tables and kind(node.slice)


def test_what_a_card_needs_stands_on_the_card():
    """Nobody asks a card for its name, nor for its class: a new one would be forgotten there."""
    cards, found = unions(), []
    assert {"Dpo", "Muon", "Fsdp", "Answer", "Int8", "Extend"} <= cards
    for path in SOURCES:
        for node in nodes(path):
            asks = isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance" and path.parent.name not in ("core",)
            classes = {ast.unparse(part).split(".")[-1] for part in ast.walk(node.args[1])} if asks else set()
            if by_name(node) or (classes & cards and not classes & imported_artifacts(path)):
                found.append(f"{path.relative_to(ROOT)}:{node.lineno} {ast.unparse(node)[:80]}")
    assert not found, "\n".join(found)


def imported_artifacts(path: Path) -> set[str]:
    """Names that a file has from `core.artifact`: kinds of artifacts are called as cards are."""
    bodies = [node for node in nodes(path) if isinstance(node, ast.ImportFrom)]
    return {alias.asname or alias.name for node in bodies if node.module == "raylm.core.artifact" for alias in node.names}
