"""Takes Checkpoints, leaves a Report: every model on every task, compressors beside them, the curves of the road."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from raylm.core.artifact import Artifact, Report
from raylm.core.config import resolve
from raylm.core.context import Context
from raylm.core.errors import DataError
from raylm.core.workers import wait_for
from raylm.data.shards import Rows
from raylm.evaluate import report
from raylm.evaluate.config import Evaluate
from raylm.evaluate.examinee import Examinee, grade_logprobs
from raylm.evaluate.gate import failures
from raylm.model.load import checkpoint_path
from raylm.model.sampler import Sampling, ask, start_sampler
from raylm.model.shapes import AnyShape
from raylm.model.shapes.shape import Shape

HOLDS = ("sampler",)
DEADLINE_S = 24 * 3600.0
Grades = dict[str, dict[str, float]]


def run(cfg: Evaluate, ctx: Context) -> Report:
    """Grade all models. Raises DataError when a task has no held-out rows."""
    from rich.console import Console

    cards: list[Any] = [resolve(card) for card in cfg.tasks]
    for card in cards:
        rows = ctx.open(card.rows)
        if not rows.shards("held_out-"):
            raise DataError(f"task {card.kind} has no held-out rows", where=rows.uri, next="raise held_out of its tokenize stage")
    better = {name: direction for card in cards for name, direction in card.better.items()}
    grades = _compressors(cards, ctx) | _by_logprobs(cfg, cards, ctx)
    for name, values in _by_answers(cfg, cards, ctx).items():
        grades.setdefault(name, {}).update(values)
    models = [ctx.open(ref) for ref in cfg.models if ctx.is_stage(ref)]
    png = report.picture(report.road(models))
    reasons = failures(grades[cfg.models[-1]], cfg.gate, better)
    notes = [*_before_and_after(models), *_loss_of_compression(cfg, models, grades), *_gate(cfg, reasons)]
    ctx.out.write("curves.png", png)
    ctx.out.write("report.html", report.page(f"raylm report: {ctx.stage}", grades, better, png, notes))
    ctx.out.write_json("report.json", {"grades": grades, "better": better, "notes": notes, "passed": not reasons})
    console = Console()
    console.print(report.table(grades, better))
    for note in notes:
        console.print(f"  {note}", highlight=False)
    console.print(f"  report with curves: {ctx.out.path('report.html')}", highlight=False, soft_wrap=True)
    return ctx.commit(
        Report, facts={"passed": not reasons, "reasons": reasons, "model": cfg.models[-1]}, metrics={"grades": grades}
    )


def _gate(cfg: Evaluate, reasons: list[str]) -> list[str]:
    if not cfg.gate:
        return []
    return [f"GATE: {reason}" for reason in reasons] or [
        f"the gate is passed: {', '.join(f'{k} {v:g}' for k, v in cfg.gate.items())}"
    ]


def _compressors(cards: list[Any], ctx: Context) -> Grades:
    found: Grades = {}
    for card in cards:
        if hasattr(card, "baselines"):
            rows = ctx.open(card.rows)
            found |= card.baselines(Rows.open(rows.uri, "held_out"), rows.folder.path("tokenizer"))
    return found


def _by_logprobs(cfg: Evaluate, cards: list[Any], ctx: Context) -> Grades:
    """Models side by side, one worker each, as many at a time as the cluster has room for."""
    import ray

    asked = [(card, ctx.open(card.rows).uri) for card in cards if card.needs == "logprobs"]
    if not asked:
        return {}
    ctx.workers.check_room(cfg.workers, "evaluate")
    grade = ray.remote(num_cpus=cfg.workers.cpus, num_gpus=cfg.workers.gpus, max_retries=2)(grade_logprobs)
    first, running = cfg.models[0], {}
    fresh = _fresh(ctx.open(first)) if cfg.untrained and ctx.is_stage(first) else None
    if fresh:
        running["untrained"] = grade.remote(checkpoint_path(ctx, first), fresh, asked)
    for ref in cfg.models:
        running[ref] = grade.remote(checkpoint_path(ctx, ref), None, asked)
    grades: Grades = {}
    with ctx.progress(len(running), "models") as bar:
        for name, task in running.items():
            grades[name] = wait_for(task, DEADLINE_S, f"the grades of {name}")
            bar.to(len(grades), model=name)
    return grades


def _by_answers(cfg: Evaluate, cards: list[Any], ctx: Context) -> Grades:
    """One engine answers for model after model; a model of another make needs a process of its own."""
    asked = [card for card in cards if card.needs == "generate"]
    grades: Grades = {}
    if not asked:
        return grades
    prompts = {card.kind: Rows.open(ctx.open(card.rows).uri, "held_out") for card in asked}
    longest = max(len(rows[index]["tokens"]) for rows in prompts.values() for index in range(len(rows)))
    max_len = longest + max(card.max_tokens for card in asked)
    for ref in cfg.models:
        path = checkpoint_path(ctx, ref)
        held = cfg.sampler
        actor = start_sampler(ctx.workers, path, max_len=max_len, gpus=held.gpus, cpus=held.cpus, hang_s=held.hang_s)

        def answers(asked_prompts: list[list[int]], max_tokens: int, actor: Any = actor) -> list[str]:
            sampling = Sampling(max_tokens=max_tokens, temperature=0.0)
            drawn = ask(actor, "generate", asked_prompts, sampling, timeout_s=cfg.sampler.hang_s)
            return [group[0].text for group in drawn]

        for card in asked:
            grades.setdefault(ref, {}).update(card.grade(Examinee(path, sampler=answers), prompts[card.kind]))
    return grades


def _fresh(first: Artifact) -> tuple[Shape, dict[str, Any], int] | None:
    config = first.manifest.config
    if not isinstance(config.get("model"), dict):
        return None
    return TypeAdapter(AnyShape).validate_python(config["model"]), first.facts, config["seed"]


def _before_and_after(models: list[Artifact]) -> list[str]:
    """One line per trained stage: each of its held-out metrics before and after."""
    notes = []
    for stage in report.road(models):
        metrics = stage.metrics
        pairs = [key.removesuffix("_before") for key in metrics if key.endswith("_before") and key.startswith("held_out")]
        parts = [
            f"{name} {metrics[f'{name}_before']:.4g} -> {metrics[f'{name}_after']:.4g}"
            for name in pairs
            if f"{name}_after" in metrics
        ]
        if "reward_first" in metrics:
            parts.append(f"mean reward of the draws {metrics['reward_first']:.3g} -> {metrics['reward_last']:.3g}")
        if parts:
            notes.append(f"{stage.manifest.stage}: {', '.join(parts)}")
    return notes


def _loss_of_compression(cfg: Evaluate, models: list[Artifact], grades: Grades) -> list[str]:
    notes = []
    for model in models:
        source = model.facts.get("base_model")
        if not model.facts.get("quantized") or source not in grades:
            continue
        name = model.manifest.stage
        changes = [f"{key} {value - grades[source][key]:+.4f}" for key, value in grades[name].items() if key in grades[source]]
        notes.append(f"{name} is {model.metrics['size_ratio']:.2f} times smaller than {source}; it costs {', '.join(changes)}")
    return notes
