"""Loads tasks of lm-eval, and refuses those that could not be finished here."""

from __future__ import annotations

import ast
import logging
import os
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from raylm.core.config import did_you_mean
from raylm.core.errors import ConfigError, DataError

PACKAGE = "lm_eval"
_NAMES = {"sklearn": "scikit-learn", "PIL": "pillow", "yaml": "pyyaml", "bert_score": "bert-score", "rouge_score": "rouge-score"}
"""How packages are called whose modules have another name."""


def load_tasks(task: str, num_fewshot: int | None, seed: int) -> dict[str, Any]:
    """What `TaskManager.load` gives: tasks and groups, ready to be evaluated.

    Args:
        task: a name of lm-eval's (task, group or tag), or a YAML file.
        num_fewshot: solved examples in front of a question; None: as the task says. A task that wants none keeps it.

    Raises:
        ConfigError: lm-eval, or a package that the task needs, is not installed; or there is no such task.
        DataError: its data cannot be had.
    """
    if find_spec(PACKAGE) is None:
        raise ConfigError("the package lm-eval is not installed", where=task, next="pip install lm-eval==0.4.13")
    # before its first import: datasets reads its settings once
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from lm_eval.tasks import TaskManager

    logging.getLogger(PACKAGE).setLevel(logging.ERROR)
    own = task.endswith((".yaml", ".yml"))
    if own and not Path(task).is_file():
        raise ConfigError("there is no such file", where=task, next="paths are from where raylm is started")
    manager = TaskManager(include_defaults=not own)
    if not own and task not in manager.task_index:
        hint = did_you_mean(task, get_close_matches(task, manager.all_tasks))
        raise ConfigError(f"lm-eval knows no task {task!r}.{hint}", next="`lm_eval ls tasks` lists them; or name a YAML file")
    try:
        loaded: dict[str, Any] = dict(manager.load([task]))
    except ModuleNotFoundError as cause:
        raise lacks(task, cause.name or str(cause)) from cause
    except (OSError, LookupError, ValueError, RuntimeError) as cause:
        words = " ".join(str(cause).split())[:300]
        offline = " (HF_DATASETS_OFFLINE or HF_HUB_OFFLINE is set)" if _offline() else ""
        raise DataError(
            f"the data of task {task} cannot be had{offline}: {type(cause).__name__}: {words}",
            next="a task of your own with `dataset_path: json` and data_files reads local files",
        ) from cause
    for name, one in loaded["tasks"].items():
        _check(name, one)
        _set_fewshot(one, num_fewshot, seed)
    return loaded


def _set_fewshot(task: Any, number: int | None, seed: int) -> None:
    """As lm-eval's simple_evaluate does it."""
    default = task.get_config("num_fewshot")
    if number is not None and default != 0:
        task.set_config(key="num_fewshot", value=number)
    elif default is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=seed)


def _check(name: str, task: Any) -> None:
    """What would fail behind the last request, or must not be run."""
    from lm_eval.api import metrics

    if getattr(task, "UNSAFE_CODE", False):
        raise ConfigError(
            f"the task {name} runs what a model writes, without a sandbox",
            next='{kind = "generation", checker = {kind = "code"}} runs it in one',
        )
    if getattr(task, "MULTIMODAL", False):
        raise ConfigError(f"the task {name} shows images or plays sounds; here models read text")
    needs_sklearn = (metrics.f1_score, metrics.matthews_corrcoef)
    if find_spec("sklearn") is None and any(made in needs_sklearn for made in task.aggregation().values()):
        raise lacks(name, "sklearn")
    for path in _files_of(task.config):
        for module in _imports(path):
            if _missing(module):
                raise lacks(name, module)


def _files_of(config: Any) -> set[str]:
    """Files of the functions that a task brings along."""
    values = list(vars(config).values())
    values += [value for one in (config.metric_list or []) if isinstance(one, dict) for value in one.values()]
    files = {getattr(getattr(value, "__code__", None), "co_filename", "") for value in values}
    return {file for file in files if file and f"{os.sep}lm_eval{os.sep}api{os.sep}" not in file and Path(file).is_file()}


def _imports(path: str) -> set[str]:
    """Modules that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(Path(path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


def _missing(module: str) -> bool:
    try:
        return find_spec(module) is None
    except (ImportError, ValueError):
        return True


def lacks(task: str, module: str) -> ConfigError:
    """The error that names the package of a module that is not installed."""
    package = _NAMES.get(module.split(".")[0], module.split(".")[0])
    return ConfigError(
        f"the task {task} of lm-eval needs the package {package}, which is not installed", next=f"pip install {package}"
    )


def _offline() -> bool:
    return any(os.environ.get(name, "") not in ("", "0") for name in ("HF_DATASETS_OFFLINE", "HF_HUB_OFFLINE"))
