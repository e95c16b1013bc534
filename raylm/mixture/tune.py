"""`raylm tune-mixture`: small proxies over random mixtures of a train stage's sources, a regression of what they lose on every
target, and the mixture that it finds best, as a job file that `raylm run` takes as it is.

stage with a mixture --> proxies (one rank each, side by side) --> losses --> regression --> chosen, trained too --> best.toml
"""

from __future__ import annotations

import argparse
import os
import time
from typing import Any

from raylm import job
from raylm.core import toml
from raylm.core.artifact import MANIFEST, Artifact, InputEntry, Report, open_artifact
from raylm.core.config import did_you_mean, digest_of
from raylm.core.context import Context
from raylm.core.errors import ConfigError, DriftError
from raylm.core.storage import Folder
from raylm.core.workers import Workers
from raylm.data.mixture import Mixture, refs_of
from raylm.mixture import draws, report
from raylm.mixture.found import Asked, Found, find
from raylm.mixture.pool import Pool
from raylm.mixture.proxy import Result, Target, order_of
from raylm.train.config import Train
from raylm.trainer.setup import Setup

ASKED, PROXIES = "asked.json", "proxies"
PROXY_PARAMETERS = 1_000_000
GROWS = ("proxies", "unseen")
"""What may be asked for anew: proxies that are there stay."""


class Tune:
    """One tuning.

    Args:
        data: the job as TOML reads it, overrides taken in.
        source: for messages.
    """

    def __init__(self, data: dict[str, Any], source: toml.Source, arguments: argparse.Namespace) -> None:
        self._data, self._source, self._arguments, self.stage = data, source, arguments, arguments.stage
        self.job = toml.check(job.Job, data, source)
        job.check_chain(self.job, source)
        cfg = self.job.stages.get(self.stage)
        if not isinstance(cfg, Train):
            known = did_you_mean(self.stage, self.job.stages)
            raise ConfigError(f"{self.stage!r} is no train stage of this job.{known}", where=source.name)
        if not isinstance(cfg.rows, Mixture) or len(cfg.rows.parts) < 2 or cfg.rows.phases:
            raise ConfigError(
                f"the rows of {self.stage!r} are no mixture of two or more parts without phases: there is nothing to tune",
                where=source.where(("stages", self.stage, "rows")),
                next='rows = {kind = "mixture", parts = [{rows = "code"}, {rows = "prose"}]}',
            )
        if arguments.proxies < (least := len(cfg.rows.parts) + 3):
            raise ConfigError(f"--proxies {arguments.proxies}: {len(cfg.rows.parts)} sources need at least {least}")
        objective: Any = cfg.objective
        if (
            "teacher" in getattr(objective, "needs", ())
            or getattr(objective, "scores_ahead", bool)()
            or getattr(objective, "scores_beside", bool)()
            or cfg.reference == "stored"
        ):
            raise ConfigError(
                "proxies have no teacher, and no rows that were scored ahead: their mixture cannot be tuned",
                where=source.where(("stages", self.stage, "objective")),
                next='tune a stage with the objective next_token, or reference = "live"',
            )
        if arguments.steps < 1 or arguments.rows < 1 or (arguments.processes is not None and arguments.processes < 1):
            raise ConfigError("--steps, --rows and --processes are at least 1")
        self.cfg, self.mixture = cfg, cfg.rows
        self.folder = self.job.folder(f"{self.stage}.mixture")
        if not self.folder.is_local:
            raise ConfigError("proxies keep their state on a local disk", where=self.folder.uri, next="--set root=runs")

    def asked(self) -> dict[str, Any]:
        """What makes the proxies what they are."""
        given = self._arguments
        return {
            "stage": self.cfg.identity(), "targets": given.target, "proxies": given.proxies, "unseen": given.unseen,
            "steps": given.steps, "proxy": given.proxy, "rows": given.rows, "max_epochs": given.max_epochs, "seed": given.seed,
        }  # fmt: skip

    def make_inputs(self) -> None:
        """Run what the stage and the targets read, once for all proxies."""
        steps = {step.name: step for step in job.plan(self.job)}
        for name in (*refs_of(self.mixture), *(word.partition("=")[0] for word in self._arguments.target)):
            if name in steps and steps[name].state != "ready":
                job.run(self.job, only=name)

    def changed(self, shares: list[float], **values: Any) -> dict[str, Any]:
        """The job with these shares, and other values of the stage's keys."""
        parts = [{"rows": ref, "weight": share} for ref, share in zip(refs_of(self.mixture), shares, strict=True)]
        values = {"rows": {"kind": "mixture", "parts": parts} | values.pop("more", {}), **values}
        stages = {**self._data["stages"], self.stage: {**self._data["stages"][self.stage], **values}}
        return {**self._data, "stages": stages}

    def proxy(self, shares: list[float], vocabulary: int) -> Train:
        """The stage as a proxy is trained: one rank, a small model where it makes a new one, few steps. Raises ConfigError."""
        values: dict[str, Any] = {
            "steps": self._arguments.steps, "workers": {"count": 1}, "strategy": {"kind": "ddp"}, "held_out_rows": 0,
            "save_every": 10**9, "keep_best": 0, "export": "last", "mesh": {}, "compile": False,
        }  # fmt: skip
        data = self.changed(shares, **values)
        stage = data["stages"][self.stage]
        for name in ("tokens", "epochs", "evaluate_every", "keep_every", "spikes", "watch", "scorers"):
            stage.pop(name, None)
        if not isinstance(self.cfg.model, str):
            stage["model"] = _small(self.cfg.model, vocabulary)
        words = [f"stages.{self.stage}.{word}" for word in self._arguments.proxy]
        made = toml.check(job.Job, toml.override(data, words), self._source).stages[self.stage]
        assert isinstance(made, Train)
        return made

    def targets(self, first: Artifact) -> list[Target]:
        """What proxies are measured on; all sources alike where nothing is said.

        Raises:
            ConfigError: a target has no held-out rows, other tokens, or a weight that is none.
        """
        words = self._arguments.target or refs_of(self.mixture)
        found = []
        for word in words:
            name, _, weight = word.partition("=")
            made = self._open(name)
            if not made.shards("held_out-"):
                raise ConfigError(f"target {name!r} has no held-out rows", where=made.uri, next="raise held_out of its stage")
            if _tokenizer(made) != _tokenizer(first):
                raise ConfigError(f"target {name!r} has other tokens than the sources", where=made.uri)
            try:
                found.append(Target(name, made.uri, made.kind, float(weight or 1.0)))
            except ValueError:
                raise ConfigError(f"--target {word!r}: the weight is no number", next=f"--target {name}=2") from None
        if any(not 0 < target.weight < float("inf") for target in found) or len({t.name for t in found}) < len(found):
            raise ConfigError("each target is named once, with a weight above 0", where=" ".join(words))
        total = sum(target.weight for target in found)
        return [target._replace(weight=target.weight / total) for target in found]

    def inputs(self, targets: list[Target]) -> list[InputEntry]:
        """What was read."""
        found = {}
        for name in (*refs_of(self.mixture), *(target.name for target in targets)):
            made = self._open(name)
            found[name] = InputEntry(name=name, uri=made.uri, fingerprint=made.fingerprint, kind=made.kind, content=made.content)
        return list(found.values())

    def context(self, identity: dict[str, Any], inputs: list[InputEntry]) -> Context:
        """Where the stage's rows are opened, and the report is committed."""
        return Context(
            stage=self.folder.name,
            out=self.folder,
            stages={each: self.job.folder(each) for each in self.job.stages},
            workers=Workers(),
            config=self.asked(),
            identity=identity,
            inputs=inputs,
            fingerprint=digest_of(identity),
        )

    def write_best(self, found: Found, said: str) -> None:
        """best.toml: the whole job with the chosen mixture, which names the report that it comes from; none where none is chosen:
        what fewer proxies chose before is no answer of these."""
        from raylm.sweep.report import BEST, write_best

        self.folder.remove(BEST)
        if found.refused:
            return
        write_best(self.folder, self.changed(found.shares, more={"chosen_by": self.folder.uri}), said)

    def _open(self, name: str) -> Artifact:
        return open_artifact(self.job.folder(name) if name in self.job.stages else Folder(name))


def run(arguments: argparse.Namespace) -> int:
    """Train the proxies that are missing, choose, and print what was found; 1 where no mixture is chosen."""
    data, source = toml.read(arguments.job, arguments.set)
    tune = Tune(data, source, arguments)
    _same(tune, arguments.anew)
    tune.make_inputs()
    found = tuned(tune, arguments)
    for line in found.lines:
        print(line)
    print(f"page: {tune.folder.path(report.PAGE)}")
    if found.refused:
        print(f"no mixture is chosen: {found.refused}")
        return 1
    print(f"next: raylm run {tune.folder.path('best.toml')} --rebuild {tune.stage}")
    return 0


def tuned(tune: Tune, arguments: argparse.Namespace) -> Found:
    """All proxies, the regression, the chosen mixture and its report."""
    from raylm.train.rows import num_rows
    from raylm.train.stage import prepared

    first = tune._open(refs_of(tune.mixture)[0])
    targets = tune.targets(first)
    inputs = tune.inputs(targets)
    identity = {"asked": tune.asked(), "inputs": {one.name: f"{one.fingerprint} {one.content}" for one in inputs}}
    _same_inputs(tune, identity["inputs"])
    ctx = tune.context(identity, inputs)
    # what chose the shares of before is no input of these
    plain = tune.mixture.model_copy(update={"chosen_by": None})
    whole, setup, parts = prepared(tune.cfg.model_copy(update={"rows": plain}), ctx)
    sizes = [num_rows(part) for part in parts]
    rows_drawn = setup.steps * (whole.batch or 1)
    expected = tune.mixture.expected(sizes, rows_drawn)
    import numpy as np

    natural = np.array(expected) / sum(expected)
    caps = draws.caps_of(sizes, rows_drawn, arguments.max_epochs)
    asked = Asked(refs_of(tune.mixture), targets, natural, caps, sizes, rows_drawn, arguments)
    device = "cuda" if tune.cfg.workers.gpus and _has_gpu() else "cpu"
    processes = 1 if device == "cuda" else arguments.processes or max(os.cpu_count() or 1, 1)
    threads = int(os.environ.get("OMP_NUM_THREADS") or max(1, (os.cpu_count() or 1) // processes))
    started = time.monotonic()
    seen = 0

    def orders(mixtures: list[list[float]], names: list[str]) -> list[dict[str, Any]]:
        made = []
        for name, shares in zip(names, mixtures, strict=True):
            cfg = tune.proxy(shares, first.facts["vocab_size"])
            out = tune.folder / PROXIES / f"{name}.work"
            proxy_cfg, proxy_setup, _ = prepared(cfg, ctx)
            moved: Setup = proxy_setup.model_copy(update={"out": out.uri, "work": (out / "steps").uri})
            made.append(order_of(name, proxy_cfg, moved, targets, arguments.rows, device))
        return made

    def heard(result: Result) -> None:
        nonlocal seen
        seen += 1
        told = ", ".join(f"{name} {loss:.4f}" for name, loss in result.losses.items())
        print(f"proxy {result.name} ({seen}, after {time.monotonic() - started:.0f} s): {told}", flush=True)

    with Pool((tune.folder / PROXIES).make(), processes, threads) as pool:
        found = find(asked, lambda mixtures, names: pool.train(orders(mixtures, names), heard))
    report.write(tune.folder, tune.stage, asked, found)
    tune.write_best(found, f"the mixture of {tune.stage} that {len(found.proxies)} proxies chose: see {tune.folder.uri}")
    ctx.commit(Report, facts=found.facts(asked), metrics=found.metrics())
    return found


def _same(tune: Tune, anew: bool) -> None:
    """Keep what was asked. Raises DriftError where proxies of something else lie there."""
    if anew:
        tune.folder.remove()
    before = tune.folder.read_json(ASKED) if tune.folder.exists(ASKED) else {}
    asked = tune.asked()
    if differs := [key for key in asked if key in before and key not in GROWS and asked[key] != before[key]]:
        raise DriftError(
            f"another tuning lies here, it differs in {', '.join(differs)}", where=tune.folder.uri, next="add --anew to forget it"
        )
    tune.folder.make().write_json(ASKED, {**before, **asked})
    # it is written again when all proxies are there
    tune.folder.remove(MANIFEST)


def _same_inputs(tune: Tune, inputs: dict[str, str]) -> None:
    before = tune.folder.read_json(ASKED)
    if before.get("inputs", inputs) != inputs:
        raise DriftError("the proxies that lie here read other rows", where=tune.folder.uri, next="add --anew to forget them")
    tune.folder.write_json(ASKED, {**before, "inputs": inputs})


def _tokenizer(made: Artifact) -> list[tuple[str, str]]:
    return [(entry.path, entry.digest) for entry in made.shards("tokenizer/")]


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _small(shape: Any, vocabulary: int) -> dict[str, Any]:
    """The shape, narrower and with fewer layers until it has about PROXY_PARAMETERS weights; one that has no more stays."""
    table = shape.model_dump(mode="json", exclude_none=True)
    width, layers = shape.hidden_size, shape.num_layers
    head = max(shape.hidden_size // shape.num_heads, 8)
    while type(shape).model_validate(table).num_parameters(vocabulary) > PROXY_PARAMETERS * 1.3 and (width > 32 or layers > 2):
        layers = max(2, min(layers, 4))
        width = max(32, width * 3 // 4 // 16 * 16)
        heads = max(1, width // min(head, 32))
        while width % heads:
            heads -= 1
        table |= {"hidden_size": width, "num_layers": layers, "num_heads": heads}
        table.pop("intermediate_size", None)
        table.pop("num_kv_heads", None)
    return table
