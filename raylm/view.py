"""The output of `raylm plan` and `raylm show`: the plan, an artifact and its lineage."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from raylm.absent import absent
from raylm.core.artifact import MANIFEST, ROLLOUTS, Artifact, open_artifact
from raylm.core.config import ENDPOINT, Config
from raylm.core.errors import ArtifactError
from raylm.core.room import asks, peak
from raylm.core.storage import Folder
from raylm.data.mixture import Mixture, refs_of
from raylm.estimate import check, engine_formats, estimate
from raylm.job import AnyStage, Job, Step, load
from raylm.job import plan as plan_steps
from raylm.run_page import PAGE
from raylm.train.size import size_of

STATES = {"ready": "reused", "unfinished": "goes on", "new": "to do", "drift": "DRIFT"}


def plan(job: Job, steps: list[Step]) -> None:
    """Print the stages in running order: what each makes of what, on which workers, how much."""
    table = Table(
        title=f"{job.name}: {len(steps)} stages, artifacts in {job.root}/{job.name}",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for column in ("stage", "verb", "takes", "makes", "roles", "state"):
        table.add_column(column, overflow="fold")
    for step in steps:
        takes = list(dict.fromkeys(ref.value for ref in step.inputs)) or [_source(step.config)]
        shown = ", ".join(takes[:2]) + (f" +{len(takes) - 2}" if len(takes) > 2 else "")
        state = "starts each time" if step.makes == ENDPOINT else STATES[step.state]
        table.add_row(step.name, step.config.stage, shown, str(step.makes), _roles(step.config), state)
    console = Console()
    console.print(table)
    for step in steps:
        if size := _size(job, step):
            console.print(f"  {step.name}: {size}", highlight=False)
        checked = check(job, step, steps)  # first: what it refuses is nothing to forecast
        for line in [
            *estimate(job, step.name),
            *engine_formats(job, step.name),
            *_drawn(job, step),
            *checked,
            *absent(job, step),
        ]:
            console.print(f"  {step.name}: {line}", highlight=False)
        for difference in step.drift:
            console.print(f"  {step.name}: {difference}   (--rebuild {step.name}, or rename the stage)", highlight=False)
    peaks = {step.name: peak(step.config.roles()) for step in steps}
    fullest = max(peaks, key=lambda name: peaks[name]["CPU"])
    gpus = max(each["GPU"] for each in peaks.values())
    todo = sum(step.state in ("new", "unfinished") for step in steps)
    console.print(
        f"{todo} stages to do; at most {peaks[fullest]['CPU']:g} CPUs ({fullest}) and {gpus:g} GPUs. Nothing was started.",
        highlight=False,
    )


def machines(job: Job, steps: list[Step]) -> None:
    """Print what the stages need of a cluster, and the machines that hold them."""
    from raylm.cluster.render import tables

    console = Console()
    for table in tables(job, steps):
        console.print(table)


def explain(job: Job) -> None:
    """Print every key that the job's stages take, with its default and meaning."""
    console = Console()
    for kind in dict.fromkeys(type(cfg) for cfg in job.stages.values()):
        console.print(f'\n[bold]stage = "{kind.__name__.lower()}"[/]: {kind.__doc__}')
        _explain_fields(kind, console, "  ")
    for card in dict.fromkeys(_cards(job)):
        title = card.model_fields["kind"].default if "kind" in card.model_fields else card.__name__
        console.print(f"\n[bold]{title}[/] ({card.__name__}): {(card.__doc__ or '').splitlines()[0]}")
        _explain_fields(card, console, "  ")


def show(what: str) -> None:
    """Print an artifact and its lineage, or the artifacts of a job."""
    if what.endswith(".toml"):
        job = load(what)
        plan(job, plan_steps(job))
        _name_page(Folder(job.root) / job.name)
        print(f"next: raylm show {job.root}/{job.name}/STAGE")
        return
    folder = Folder(what)
    if folder.exists("run.json") and not folder.exists(MANIFEST):
        for stage in _artifacts_in(folder):
            print(f"{stage.manifest.stage}: {stage.kind} {stage.fingerprint}  {stage.uri}")
        _name_page(folder)
        print(f"next: raylm show {what.rstrip('/')}/STAGE")
        return
    artifact = open_artifact(folder)
    console = Console()
    manifest = artifact.manifest
    console.print(f"[bold]{manifest.kind}[/] {artifact.fingerprint}  {folder.uri}", highlight=False, soft_wrap=True)
    console.print(
        f"made by stage {manifest.stage!r} at {manifest.made_at} in {manifest.seconds} s, git {manifest.git_commit or '-'}",
        highlight=False,
    )
    for title, values in (("facts", manifest.facts), ("metrics", manifest.metrics), ("versions", manifest.versions)):
        if values:
            console.print(f"[bold]{title}[/]")
            for key, value in values.items():
                console.print(f"  {key}: {value if isinstance(value, (str, int, float)) else json.dumps(value)}", highlight=False)
    size = sum(entry.bytes for entry in manifest.files)
    console.print(f"[bold]files[/] {len(manifest.files)}, {size / 1e6:.2f} MB")
    console.print("[bold]made from[/]")
    _print_ancestors(artifact, console, 1, set())
    console.print("[bold]went into[/]")
    _print_descendants(artifact, console, 1, set())
    if artifact.shards(f"{ROLLOUTS}/"):
        console.print(f"what an iteration drew: raylm show {folder.uri} --rollouts N", highlight=False, soft_wrap=True)
    console.print(f"next: raylm show {folder.uri.rsplit('/', 1)[0]}/OTHER", highlight=False, soft_wrap=True)


def _name_page(folder: Folder) -> None:
    if folder.exists(PAGE):
        print(f"page of this run: {folder.path(PAGE)}")


def show_step(what: str, step: int) -> None:
    """Print the documents that one optimizer step of a trained checkpoint read."""
    from raylm.trainer.documents import documents_of_step

    table = Table(title=f"step {step} of {what}", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    columns = ("source", "id", "start", "end", "length", "row", "rows", "trained")
    for column in columns:
        table.add_column(column, overflow="fold")
    for document in documents_of_step(open_artifact(Folder(what)), step):
        table.add_row(*(str(document[column]) for column in columns))
    Console().print(table, highlight=False)


def show_rollouts(what: str, iteration: int) -> None:
    """Print what one iteration of an rl stage drew, finished or not: prompts, completions, rewards and advantages.

    Raises:
        ArtifactError: no rollouts of it are kept.
    """
    from raylm.rl.rollout_files import folder_of, iterations_in, read
    from raylm.rl.sample_table import groups_of

    folder = folder_of(Folder(what))
    rows = read(folder, iteration)
    if not rows:
        has = iterations_in(folder)
        there = f"those of {len(has)} iterations from {has[0]} to {has[-1]} are kept" if has else "none are kept"
        raise ArtifactError(
            f"no rollouts of iteration {iteration}: {there}",
            where=folder.uri,
            next="name an rl stage's folder and one of its iterations; keep_rollouts says how many are kept",
        )
    console = Console()
    for group in groups_of(rows):
        first = group[0]
        truth = f"  (ground truth {first['ground_truth']})" if first["ground_truth"] is not None else ""
        console.print(f"\nprompt {first['row']} {first['source']}: {first['prompt']}{truth}", style="bold", markup=False)
        for row in group:
            said = row["unscored"] or f"score {row['score']:.4g}"
            parts = ", ".join(f"{one['name']} {one['value']:.4g} ({one['reason']})" for one in row["rewards"])
            taught = "not learned from" if row["advantage"] is None else f"advantage {row['advantage']:+.4g}"
            about = f"{said}; {taught}; {len(row['tokens'])} tokens, {row['finish_reason']}, {row['staleness']} versions behind"
            console.print(f"  {about}: {parts}", style="cyan", markup=False, highlight=False)
            console.print(f"    {row['completion']}", markup=False, highlight=False)


def _print_ancestors(artifact: Artifact, console: Console, depth: int, shown: set[str]) -> None:
    """What an artifact was made from, to the sources; what stands above already is only named."""
    source = artifact.manifest.config.get("source")
    if source:
        console.print(f"{'  ' * depth}source {json.dumps(source)}", highlight=False)
    for entry in artifact.manifest.inputs:
        console.print(
            f"{'  ' * depth}{entry.name}: {entry.kind} {entry.fingerprint}  {entry.uri}", highlight=False, soft_wrap=True
        )
        if entry.uri not in shown and Folder(entry.uri).exists(MANIFEST):
            shown.add(entry.uri)
            _print_ancestors(open_artifact(Folder(entry.uri)), console, depth + 1, shown)


def _print_descendants(artifact: Artifact, console: Console, depth: int, shown: set[str]) -> None:
    """Artifacts beside this one that were made from it: what must be made again if it goes."""
    for other in _artifacts_in(Folder(artifact.uri.rsplit("/", 1)[0])):
        if other.uri not in shown and any(entry.uri == artifact.uri for entry in other.manifest.inputs):
            stale = all(entry.fingerprint != artifact.fingerprint for entry in other.manifest.inputs)
            note = "  (from an earlier version)" if stale else ""
            console.print(f"{'  ' * depth}{other.manifest.stage}: {other.kind} {other.fingerprint}{note}", highlight=False)
            shown.add(other.uri)
            _print_descendants(other, console, depth + 1, shown)


def _artifacts_in(folder: Folder) -> list[Artifact]:
    """Finished artifacts of one job, oldest first."""
    if folder.is_local:
        names = sorted(path.parent.name for path in Path(folder.uri).glob(f"*/{MANIFEST}"))
    else:
        names = sorted({name.split("/")[0] for name in folder.files() if name.endswith(f"/{MANIFEST}")})
    found = []
    for name in names:
        try:
            found.append(open_artifact(folder / name))
        except ArtifactError:
            continue  # a damaged neighbour is its own story; this page is about another artifact
    return sorted(found, key=lambda artifact: artifact.manifest.made_at)


def _roles(cfg: AnyStage) -> str:
    """`2x 1 CPU ranks, 1x 1 CPU, 1 GPU generator`; of a stage with one role without its name."""
    roles = {name: role for name, role in cfg.roles().items() if asks(role) or role.colocate_with}
    shown = []
    for name, role in roles.items():
        has = ", ".join(f"{value:g} {what}" for what, value in asks(role).items()) or f"on {role.colocate_with}"
        also = f" on {role.nodes} nodes" if role.nodes else ""
        shown.append(f"{role.count}x {has}{also}" + (f" {name}" if len(roles) > 1 else ""))
    return "; ".join(shown)


def _source(cfg: AnyStage) -> str:
    source: Any = getattr(cfg, "source", None)
    return source.kind if source is not None else "-"


def _size(job: Job, step: Step) -> str:
    """What the config itself says of the amount of work: tokens and parameters where they can be known."""
    cfg: Any = step.config
    if step.config.stage == "train":
        long = f"{cfg.steps} steps" if cfg.steps else f"{_short(cfg.tokens)} tokens" if cfg.tokens else f"{cfg.epochs:g} epochs"
        return f"{long}, batches of {cfg.batch} rows" if cfg.batch else f"{long}, batches of {_short(cfg.batch_tokens)} tokens"
    if step.config.stage == "rl":
        each = getattr(cfg.algorithm, "num_generations", 1)
        return f"{cfg.iterations} iterations, {_short(cfg.iterations * cfg.prompts_per_iteration * each)} completions"
    return ""


def _drawn(job: Job, step: Step) -> list[str]:
    """How often a run goes through each part of a mixture, once the parts are there."""
    rows, cfg = getattr(step.config, "rows", None), step.config
    if not isinstance(rows, Mixture) or cfg.stage != "train":
        return []
    folders = [job.folder(ref) if ref in job.stages else Folder(ref) for ref in refs_of(rows)]
    if not all(folder.exists(MANIFEST) for folder in folders):
        return ["rows, tokens and epochs of each part are shown once the parts are made"]
    parts = [open_artifact(folder) for folder in folders]
    sizes = [sum(entry.rows or 0 for entry in part.shards("train-")) for part in parts]
    if not all(sizes):
        return []
    size = size_of(cfg, [part.facts for part in parts], sizes)
    draws = size.steps * size.batch
    lines = []
    for ref, part, size, count in zip(refs_of(rows), parts, sizes, rows.expected(sizes, draws), strict=True):
        tokens = count * part.facts.get("num_tokens", 0) / size
        lines.append(
            f"{count / draws:.2%} from {ref}: {_short(round(count))} rows, {_short(tokens)} tokens, {count / size:.2f} epochs"
        )
    return lines


def _short(count: float) -> str:
    power = min(int(math.log10(count) // 3), 4) if count >= 1000 else 0
    return f"{count / 1000**power:.4g} {['', 'k', 'M', 'B', 'T'][power]}".rstrip()


def _cards(value: Any) -> list[type[Config]]:
    """Types of all tables nested in a config, in order."""
    found: list[type[Config]] = []
    items = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else None
    if isinstance(value, Config):
        items = [getattr(value, name) for name in type(value).model_fields]
    for item in items or ():
        if isinstance(item, Config) and not hasattr(item, "stage"):
            found.append(type(item))
        found += _cards(item)
    return found


def _explain_fields(kind: type[Config], console: Console, indent: str) -> None:
    for name, field in kind.model_fields.items():
        if name in ("stage", "kind"):
            continue
        default = "needed" if field.is_required() else f"default {_plain(field.get_default(call_default_factory=True))}"
        console.print(f"{indent}{name} ({default}): {field.description or ''}", highlight=False, markup=False)


def _plain(value: Any) -> str:
    return value.model_dump_json(exclude_defaults=True) if isinstance(value, Config) else repr(value)
