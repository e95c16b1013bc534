"""The `lm_eval` task: any task of EleutherAI's lm-evaluation-harness, or a YAML of one's own."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import Field, field_validator

from raylm.core.config import Config
from raylm.core.errors import DataError
from raylm.evaluate.instances import Graded, asked_id, means

if TYPE_CHECKING:
    from raylm.evaluate.harness.model import Harness
    from raylm.evaluate.lm import LM

_LOW = {"perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte", "brier_score"}
_PERPLEXITIES = {"perplexity", "word_perplexity", "byte_perplexity"}
_CLOSE = 1e-9
"""Relative distance from lm-eval's own number: sums of floats depend on their order."""


class _Metric(NamedTuple):
    """One metric of lm-eval, after one of its filters."""

    name: str
    filter: str

    @property
    def key(self) -> str:
        """As lm-eval's results have it."""
        return f"{self.name},{self.filter}"


class LmEval(Config):
    """lm-eval builds the requests and judges the answers (https://github.com/EleutherAI/lm-evaluation-harness), the model is
    asked as every other task asks it; each document is an instance. What comes of it is compared with lm-eval's own aggregate.

    Tasks whose data lie on the hub need network once (HF_DATASETS_OFFLINE, HF_HUB_OFFLINE and HF_HOME are respected); a YAML with
    `dataset_path: json` and `dataset_kwargs: {data_files: ...}` needs none.
    """

    kind: Literal["lm_eval"] = "lm_eval"
    task: str
    """A task, group or tag of lm-eval's, or the path of a YAML file."""
    metrics: list[str] = Field(default=["acc"], min_length=1)
    """lm-eval's metrics, with the filter where there are several: `exact_match,strict-match`. Those that are made of all answers
    together (bleu, chrf, ter, f1, mcc) have no instances to compare and are refused."""
    generates: bool = False
    """The task has requests that are answered by text (`output_type: generate_until`)."""
    name: str | None = Field(default=None, pattern=r"^[A-Za-z][A-Za-z0-9_]*$")
    """What its metrics begin with; the task's name where it does not say."""
    num_fewshot: int | None = Field(default=None, ge=0)
    """Solved examples in front of a question; as the task says where nothing is said."""
    limit: int | None = Field(default=None, gt=0)
    """Documents of each task at most: the first ones."""
    apply_chat_template: bool = False
    """Ask by the model's chat template."""
    system_instruction: str | None = None
    """In front of the task's description."""
    fewshot_as_multiturn: bool = True
    """With a chat template examples are turns; else all in one turn of the user."""
    seed: int = Field(default=1234, ge=0)
    """Which examples are drawn; lm-eval's own default."""
    max_tokens: int = Field(default=256, gt=0)
    """Longest answer where the task says none."""
    max_prompt: int = Field(default=4096, gt=0)
    """Longest prompt that the engine keeps room for, as far as the model has it; longer ones lose their beginning."""

    @field_validator("metrics")
    @classmethod
    def _each_once(cls, metrics: list[str]) -> list[str]:
        if len(set(metrics)) < len(metrics):
            raise ValueError("a metric stands twice")
        return metrics

    @property
    def needs(self) -> str:
        """What the model is asked for."""
        return "generate" if self.generates else "logprobs"

    @property
    def title(self) -> str:
        """What its metrics begin with."""
        stem = Path(self.task).stem if self.task.endswith((".yaml", ".yml")) else self.task
        return self.name or "".join(letter if letter.isalnum() else "_" for letter in stem)

    @property
    def better(self) -> dict[str, str]:
        """Its metrics."""
        return {self._label(metric): "low" if metric.name in _LOW else "high" for metric in self._metrics()}

    @property
    def shares(self) -> tuple[str, ...]:
        """Those that are shares of instances."""
        return tuple(self._label(metric) for metric in self._metrics() if metric.name in ("acc", "acc_norm", "exact_match"))

    def grade(self, lm: LM, rows: Any = None) -> list[Graded]:
        """One instance for each document of each task.

        Raises:
            ConfigError: lm-eval or a package of the task is missing, or it asks for what there is no room for.
            DataError: its data cannot be had, or a metric is not the mean of its instances.
        """
        from raylm.evaluate.harness.load import load_tasks
        from raylm.evaluate.harness.model import Harness

        loaded = load_tasks(self.task, self.num_fewshot, self.seed)
        self._check(loaded["tasks"])
        harness = Harness(lm, self.max_tokens)
        results = self._run(harness, loaded)
        found = [
            graded
            for name, task in loaded["tasks"].items()
            for graded in self._graded(name, task, results["samples"][name], harness)
        ]
        # a document is left out with any of its requests
        lm.enough(found, len(found) + len(harness.left_out))
        if not harness.left_out:
            self._compare(found, loaded, results)
        return found

    def summary(self, graded: list[Graded]) -> dict[str, float]:
        """Means; of perplexities their exponential."""
        logs = {self._label(metric) for metric in self._metrics() if metric.name in _PERPLEXITIES}
        return {name: math.exp(value) if name in logs else value for name, value in means(graded).items()}

    def _metrics(self) -> list[_Metric]:
        parted = [metric.partition(",") for metric in self.metrics]
        return [_Metric(name, word or "none") for name, _, word in parted]

    def _label(self, metric: _Metric) -> str:
        alone = sum(each.name == metric.name for each in self._metrics()) == 1
        words = metric.name if alone else f"{metric.name}_{metric.filter}"
        return f"{self.title}_{''.join(letter if letter.isalnum() else '_' for letter in words)}"

    def _check(self, tasks: dict[str, Any]) -> None:
        for name, task in tasks.items():
            if task.OUTPUT_TYPE == "generate_until" and not self.generates:
                raise DataError(f"the task {name} asks for answers", where=self.task, next="say generates = true")
            directions = task.higher_is_better()
            for metric in self._metrics():
                if metric.name not in task.aggregation():
                    known = ", ".join(sorted(task.aggregation()))
                    raise DataError(f"the task {name} has no metric {metric.name!r}; it has {known}", where=self.task)
                wanted = self.better[self._label(metric)] == "high"
                if directions.get(metric.name, wanted) != wanted:
                    raise DataError(
                        f"of {metric.name} of {name} {'lower' if wanted else 'higher'} is better, which raylm does not know",
                        where=self.task,
                        next="leave it out of metrics",
                    )

    def _run(self, harness: Harness, loaded: dict[str, Any]) -> Any:
        import numpy as np
        import torch
        from lm_eval import evaluator

        # tasks may draw from these; the seeds are those of lm-eval's simple_evaluate
        random.seed(0)
        np.random.seed(1234)
        torch.manual_seed(1234)
        try:
            return evaluator.evaluate(
                lm=harness,
                task_dict=loaded,  # type: ignore[arg-type]
                limit=self.limit,
                bootstrap_iters=0,
                log_samples=True,
                apply_chat_template=self.apply_chat_template,
                fewshot_as_multiturn=self.fewshot_as_multiturn,
                system_instruction=self.system_instruction,
            )
        except ModuleNotFoundError as cause:
            from raylm.evaluate.harness.load import lacks

            raise lacks(self.task, cause.name or str(cause)) from cause

    def _graded(self, name: str, task: Any, samples: list[dict[str, Any]], harness: Harness) -> list[Graded]:
        """Samples of one document, one of each filter, as one instance."""
        documents: dict[int, list[dict[str, Any]]] = {}
        for sample in samples:
            documents.setdefault(sample["doc_id"], []).append(sample)
        found = []
        for number, parts in documents.items():
            if (name, number) in harness.left_out:
                continue
            values: dict[str, float] = {}
            weights: dict[str, float] = {}
            for metric in self._metrics():
                part = next((part for part in parts if part["filter"] == metric.filter), None)
                if part is None:
                    filters = ", ".join(sorted({part["filter"] for part in parts}))
                    raise DataError(
                        f"{name} has no filter {metric.filter!r}; it has {filters}", where=self.task, next="write metric,filter"
                    )
                if metric.name in part["metrics"]:
                    label = self._label(metric)
                    values[label], weights[label] = _parts(metric.name, part[metric.name], task)
            tokens, seconds = harness.cost[name, number]
            found.append(
                Graded(
                    asked_id("lm_eval", name, parts[0]["doc_hash"], parts[0]["target_hash"]),
                    values,
                    weights,
                    {"task": name} | ({"answer": shorten(str(parts[0]["target"]), 80)} if parts[0]["target"] is not None else {}),
                    str(parts[0]["arguments"][0][0]),
                    json.dumps(parts[0]["filtered_resps"], ensure_ascii=False, default=str),
                    tokens,
                    seconds,
                )
            )
        return found

    def _compare(self, found: list[Graded], loaded: dict[str, Any], results: Any) -> None:
        """Raises DataError where lm-eval's own number is another one."""
        groups = [name for name in results.get("groups", {}) if name == self.task]
        for name in [*loaded["tasks"], *groups]:
            mine = self.summary([one for one in found if name in groups or one.facts["task"] == name])
            for metric in self._metrics():
                theirs = results["results"][name].get(metric.key)
                if not isinstance(theirs, (int, float)):
                    continue
                value = mine[self._label(metric)]
                if not math.isclose(value, theirs, rel_tol=_CLOSE, abs_tol=_CLOSE):
                    raise DataError(
                        f"{metric.key} of {name} is {theirs} for lm-eval and {value} as the mean of its instances",
                        where=self.task,
                        next="leave it out of metrics, or name the tasks of the group one by one",
                    )


def _parts(name: str, value: Any, task: Any) -> tuple[float, float]:
    """(numerator, weight) of one document."""
    from lm_eval.api import metrics

    aggregate = task.aggregation()[name]
    if aggregate in (metrics.weighted_perplexity, metrics.bits_per_byte):
        nats, weight = value
        return -float(nats) / (math.log(2) if aggregate is metrics.bits_per_byte else 1.0), float(weight)
    if aggregate is metrics.perplexity:
        return -float(value), 1.0
    if aggregate is metrics.brier_score:
        gold, shares = value
        return float(sum((share - (at == gold)) ** 2 for at, share in enumerate(shares))), 1.0
    if aggregate is metrics.nanmean and math.isnan(value):
        return 0.0, 0.0
    if isinstance(value, (bool, int, float)) or hasattr(value, "__float__"):
        # somebody's own aggregate of single numbers is taken for their mean, and compared afterwards
        return float(value), 1.0
    raise DataError(f"{name} is made of all answers together: there are no instances to compare", next="leave it out of metrics")
