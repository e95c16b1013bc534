"""Jobs: reads a job file, checks the types of its chain, runs its stages. The only module that names all stages."""

from __future__ import annotations

import importlib
import time
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import Field, field_validator

from raylm import summary
from raylm.compress.config import Compress
from raylm.core import lock, submission, toml, variants
from raylm.core.artifact import MANIFEST, WORK, Artifact, InputEntry, open_artifact
from raylm.core.config import ENDPOINT, Config, Makes, Reference, StageConfig, did_you_mean, digest_of, references
from raylm.core.context import Context
from raylm.core.errors import ArtifactError, ConfigError, DriftError, PlanError, RaylmError, StageError
from raylm.core.lock import locked
from raylm.core.room import total
from raylm.core.storage import Folder
from raylm.core.workers import Workers
from raylm.evaluate.config import Evaluate
from raylm.generate.config import Generate
from raylm.prepare.config import Prepare
from raylm.rl.config import RL
from raylm.run_page import PAGE, RECORD, RunPage
from raylm.serve.config import Serve
from raylm.serve.engine import serving
from raylm.starts import check_starts, made_of
from raylm.tokenize.config import Tokenize
from raylm.train.config import Train

_TAKEN = {PAGE, RECORD, "run.json"}
IDENTITY = f"{WORK}/identity.json"
AnyStage = Annotated[Prepare | Tokenize | Train | RL | Compress | Generate | Evaluate | Serve, Field(discriminator="stage")]


class Job(Config):
    """One run, whole on one page: what is made from what."""

    placement = frozenset({"root"})

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    """Name of the job; its artifacts lie in {root}/{name}/{stage}."""
    root: str = "runs"
    """Folder or URI (s3://, gs://) below which all artifacts lie."""
    stages: dict[str, AnyStage]
    """The stages by name, in any order; references between them make the chain."""

    @field_validator("stages")
    @classmethod
    def _names_are_folders(cls, stages: dict[str, Any]) -> dict[str, Any]:
        for name in stages:
            if not name.strip() or name.startswith(".") or set(name) & {"/", "\\", "\0"} or name in _TAKEN:
                raise ValueError(f"a stage cannot be called {name!r}: its folder in {{root}}/{{name}} has that name")
        return stages

    def folder(self, stage: str) -> Folder:
        """Where the artifact of `stage` lies."""
        return Folder(self.root) / self.name / stage


class Step(NamedTuple):
    """One stage in running order. `state`: ready (reused), unfinished (resumes), new, or drift."""

    name: str
    config: AnyStage
    makes: Makes
    inputs: list[Reference]
    state: str
    drift: list[str]


def load(path: str | Path, assignments: list[str] | None = None) -> Job:
    """Read a job file. Raises ConfigError with file, line and key for every mistake in it."""
    data, source = toml.read(path, assignments or [])
    job = toml.check(Job, data, source)
    check_chain(job, source)
    return job


def check_chain(job: Job, source: toml.Source | None = None) -> list[str]:
    """Stage names in running order.

    Raises:
        PlanError: a reference names no stage and is no URI, names a stage that makes another kind, or there is a cycle.
    """

    def where(*keys: str) -> str:
        return source.where(keys) if source else ".".join(keys)

    needs: dict[str, list[str]] = {}
    for name, cfg in job.stages.items():
        needs[name] = []
        for ref in references(cfg):
            _check_reference(job, ref, where("stages", name, *ref.path))
            if ref.value in job.stages:
                needs[name].append(ref.value)
    return _in_order(needs, {name for name, cfg in job.stages.items() if cfg.makes() == ENDPOINT}, where)


def check_references(job: Job, name: str, cfg: StageConfig) -> None:
    """Raises PlanError or ArtifactError when `cfg`, in place of the stage `name`, cannot use what it names."""
    for ref in references(cfg):
        _check_reference(job, ref, f"stages.{name}.{'.'.join(ref.path)}")
        if ref.value not in job.stages:
            _input_entry(job, ref)


def _check_reference(job: Job, ref: Reference, where: str) -> None:
    if ref.value in job.stages:
        if wrong := _unfit(ref, job.stages[ref.value].makes()):
            raise PlanError(f"{ref.value!r} makes {wrong[0]}", where=where, next=wrong[1])
    elif not _is_uri(ref.value):
        raise PlanError(
            f"no stage is called {ref.value!r}.{did_you_mean(ref.value, job.stages)}",
            where=where,
            next="name a stage of this job, or write a path or URI (it has a / in it)",
        )


def _unfit(ref: Reference, made: Makes) -> tuple[str, str | None] | None:
    """What is wrong with an artifact of this make, and what to do; None where the reference accepts it."""
    if made.kind not in ref.kinds:
        return f"{made.kind}, {ref.asked}", None
    return None if ref.accepts(made) else variants.refusal(made.variant, ref.variants)


def plan(job: Job, rebuild: list[str] | None = None, only: str | None = None) -> list[Step]:
    """The stages in running order with what is there already. Reads manifests, starts and writes nothing.

    Args:
        rebuild: stages to make again.
        only: this stage, and what it needs.

    Raises:
        ArtifactError, ConfigError: a stage that is to run names weights that it cannot start from.
    """
    rebuild = _known(job, rebuild or [], "--rebuild")
    steps, fresh = [], set()
    for name in check_chain(job):
        cfg, folder = job.stages[name], job.folder(name)
        inputs = list(references(cfg))
        state, drift = "new", []
        outside = [_input_entry(job, ref) for ref in inputs if ref.value not in job.stages]
        if name not in rebuild and not any(ref.value in fresh for ref in inputs):
            before = _identity_on_disk(folder)
            entries = outside if len(outside) == len(inputs) else [_input_entry(job, ref) for ref in inputs]
            drift = [] if before is None else _differences(before, _identity(cfg, entries))
            if cfg.makes() == ENDPOINT:
                before, drift = None, []  # an endpoint is a process: it is started each time, whatever lies there
            state = "drift" if drift else "new" if before is None else "ready" if folder.exists(MANIFEST) else "unfinished"
        if state != "ready":
            fresh.add(name)
            check_starts(name, job.stages, job.folder)
        steps.append(Step(name, cfg, cfg.makes(), inputs, state, drift))
    return needed(steps, _known(job, [only], "--only")[0] if only else None)


def run(
    job: Job, only: str | None = None, rebuild: list[str] | None = None, say: Any = print, command: str = ""
) -> dict[str, Artifact]:
    """Run what is not there yet, in order; leaves every stage's artifact by name, and the page of the run.

    Args:
        only: stop after this stage, running just it and what it needs.
        rebuild: stages to make again.
        say: called with one line per event, and with the table of a finished stage.
        command: what goes on with this run, for its page.

    Raises:
        DriftError: a finished stage was made from another config; nothing has been run.
        StageError: a stage failed.
    """
    submission.check_root(job.root)
    whole, steps = _undrifted(job, rebuild, only)
    workers = Workers(wanted_cpus=sum(sorted(total(step.config.roles()) for step in steps)[-2:]) + 3)
    made: dict[str, Artifact] = {}
    with locked(Folder(job.root) / job.name):
        # once more: until now another run may have made what would be drift
        whole, steps = _undrifted(job, rebuild, only)
        for step in steps:
            if step.makes == ENDPOINT:
                serving.check(job.folder(step.name))
        submission.check(
            workers, Folder(job.root) / job.name, {step.name: step.config for step in steps if step.state != "ready"}
        )
        (Folder(job.root) / job.name).write("run.json", job.model_dump_json(indent=2) + "\n")
        page = RunPage(Folder(job.root) / job.name, whole, command)
        page.write()
        try:
            for index, step in enumerate(steps):
                with page.failing(step.name):
                    made[step.name] = _run_step(job, step, steps[index + 1 :], workers, step.name in (rebuild or []), say, page)
                page.end(step.name, made[step.name])
        finally:
            if not any(step.makes == ENDPOINT and step.name in made for step in steps):
                workers.stop()
    return made


def _undrifted(job: Job, rebuild: list[str] | None, only: str | None) -> tuple[list[Step], list[Step]]:
    """All steps, and those that are run. Raises DriftError where one of these was made from another config."""
    whole = plan(job, rebuild)
    steps = needed(whole, _known(job, [only], "--only")[0] if only else None)
    for step in steps:
        if step.state == "drift":
            raise DriftError(
                f"{step.name!r} was begun or made from another config: {'; '.join(step.drift)}",
                where=job.folder(step.name).uri,
                next=f"add --rebuild {step.name} to begin it anew, or rename the stage to keep both",
            )
    return whole, steps


def aside(job: Job, stage: str, name: str, workers: Workers) -> Context:
    """A context that reads what `stage` reads and writes to an empty folder `{stage}.{name}` beside it."""
    submission.check_root(job.root)
    out = job.folder(f"{stage}.{name}")
    submission.check(workers, out, {stage: job.stages[stage]})
    out.remove()
    folders = {each: job.folder(each) for each in job.stages}
    cfg = job.stages[stage].model_dump(mode="json")
    return Context(
        stage=out.name, out=out.make(), stages=folders, workers=workers, config=cfg, identity={}, inputs=[], fingerprint=""
    )


def _run_step(job: Job, step: Step, later: list[Step], workers: Workers, rebuild: bool, say: Any, page: RunPage) -> Artifact:
    folder = job.folder(step.name)
    module = importlib.import_module(f"raylm.{step.config.stage}.stage")
    entries = [_input_entry(job, ref) for ref in step.inputs]
    identity = _identity(step.config, entries)
    if folder.exists(MANIFEST) and not rebuild:
        found = open_artifact(folder)
        if found.fingerprint == digest_of(identity) and step.makes != ENDPOINT:
            say(f"{step.name}: ready ({found.kind}, {found.fingerprint})")
            return found
    if step.makes != ENDPOINT and (rebuild or folder.exists(MANIFEST) or _identity_on_disk(folder) != identity):
        # an endpoint may be alive: its stage clears the folder once it has the port
        # what is not the beginning of this very computation must not be taken for it: shards, step checkpoints, payload
        lock.check(folder)
        folder.remove()
    folder.make().write_json(IDENTITY, identity)
    ctx = Context(
        stage=step.name,
        out=folder,
        stages={name: job.folder(name) for name in job.stages},
        workers=workers,
        config=step.config.model_dump(mode="json"),
        identity=identity,
        inputs=entries,
        fingerprint=digest_of(identity),
    )
    _hold_and_warm(job, step, later, workers)
    say(f"{step.name}: {step.config.stage} ...")
    page.begin(step.name)
    started = time.monotonic()
    if gauges := ctx.gauges("stages"):
        gauges.set(0, 1)
    try:
        made = module.run(step.config, ctx)
    except RaylmError:
        raise
    except Exception as cause:
        raise StageError(
            f"{type(cause).__name__}: {cause}",
            where=f"stages.{step.name}",
            next="the same command goes on from the last finished part",
        ) from cause
    if gauges:
        gauges.set(1, 1)
    say(summary.of_stage(step.name, step.config.figures, made, time.monotonic() - started))
    return made


def _held_for(job: Job, step: Step) -> set[str]:
    """Roles that a stage works with: its own, and those of endpoints that it asks."""
    asked = [job.stages[ref.value] for ref in step.inputs if ref.value in job.stages]
    return {name for cfg in (step.config, *asked) if cfg is step.config or cfg.makes() == ENDPOINT for name in cfg.roles()}


def _hold_and_warm(job: Job, step: Step, later: list[Step], workers: Workers) -> None:
    """Close what no coming stage asks for, start what the next one asks for. GPUs are not held for later: what waits for
    its turn on one would keep this stage from having it. Nor is anything on a cluster that others use too."""
    if workers.submitted:
        # a stage of one role takes that and nothing else, so the processes of the stage before may be its own
        own = set(step.config.roles())
        workers.keep({"replicas"} | (own if len(own) == 1 else set()))
        return
    coming = (step, *later)
    gpus = any(role.gpus for each in coming for role in each.config.roles().values())
    workers.keep({name for each in coming[: 1 if gpus else None] for name in _held_for(job, each)})
    if later and not gpus:
        module = importlib.import_module(f"raylm.{later[0].config.stage}.stage")
        getattr(module, "warm", lambda cfg, workers: None)(later[0].config, workers)


def _identity_on_disk(folder: Folder) -> dict[str, Any] | None:
    """Identity of the finished artifact or of the unfinished work in `folder`; None when there is neither."""
    if folder.exists(MANIFEST):
        return open_artifact(folder).manifest.identity
    return folder.read_json(IDENTITY) if folder.exists(IDENTITY) else None


def _input_entry(job: Job, ref: Reference) -> InputEntry:
    name = ".".join(ref.path)
    folder = job.folder(ref.value) if ref.value in job.stages else Folder(ref.value)
    if folder.exists(MANIFEST):
        found = open_artifact(folder)
        if wrong := _unfit(ref, made_of(found)):
            raise ArtifactError(f"{name}: this holds {wrong[0]}", where=found.uri, next=wrong[1])
        return InputEntry(name=name, uri=found.uri, fingerprint=found.fingerprint, kind=found.kind, content=found.content)
    if ref.value in job.stages or "Checkpoint" not in ref.kinds:
        raise ArtifactError("no manifest.json: nothing finished is here", where=folder.uri, next="run the stage that makes it")
    # weights that raylm did not make: a folder or hub name of Hugging Face's layout is its own fingerprint
    return InputEntry(name=name, uri=ref.value, fingerprint=digest_of(ref.value), kind="Checkpoint")


def _identity(cfg: AnyStage, entries: list[InputEntry]) -> dict[str, Any]:
    inputs = {entry.name: f"{entry.fingerprint} {entry.content}".strip() for entry in entries}
    return {"config": cfg.identity(), "inputs": inputs, "raw": cfg.raw()}


def _differences(before: dict[str, Any], identity: dict[str, Any]) -> list[str]:
    """`key old -> new` for every leaf in which what lies there and the job differ."""
    old, new = _leaves(before), _leaves(identity)
    return [
        f"{key.removeprefix('config.')} {old.get(key)!r} -> {new.get(key)!r}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]


def _leaves(value: Any, at: str = "") -> dict[str, Any]:
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if pairs is None:
        return {at: value}
    return {key: leaf for name, item in pairs for key, leaf in _leaves(item, f"{at}.{name}".lstrip(".")).items()}


def _in_order(needs: dict[str, list[str]], last: set[str], where: Any) -> list[str]:
    order: list[str] = []
    while len(order) < len(needs):
        ready = [name for name in needs if name not in order and all(need in order for need in needs[name])]
        # endpoints last: what serves stays up, and no later stage should want its place
        ready.sort(key=lambda name: name in last)
        if not ready:
            # from any stage that waits, the way along what it waits for ends in the circle
            trail = [next(name for name in needs if name not in order)]
            while trail[-1] not in trail[:-1]:
                trail.append(next(need for need in needs[trail[-1]] if need not in order))
            circle = trail[trail.index(trail[-1]) :]
            raise PlanError(f"these stages wait for each other: {' -> '.join(circle)}", where=where("stages", circle[0]))
        order.append(ready[0])
    return order


def needed(steps: list[Step], only: str | None) -> list[Step]:
    """The stage `only` and what it needs; all where it is None."""
    if only is None:
        return steps
    by_name, wanted, queue = {step.name: step for step in steps}, set(), [only]
    while queue:
        name = queue.pop()
        wanted.add(name)
        queue += [ref.value for ref in by_name[name].inputs if ref.value in by_name and ref.value not in wanted]
    return [step for step in steps if step.name in wanted]


def _known(job: Job, names: list[str], flag: str) -> list[str]:
    for name in names:
        if name not in job.stages:
            raise ConfigError(f"{flag} {name}: no such stage.{did_you_mean(name, job.stages)}")
    return names


def _is_uri(value: str) -> bool:
    return "/" in value
