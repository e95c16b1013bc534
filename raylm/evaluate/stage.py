"""The `evaluate` stage: every model on every task, general-purpose compressors for comparison, training curves."""

from __future__ import annotations

from typing import Any

from raylm.core.artifact import Artifact, Checkpoint, Report
from raylm.core.config import card_kind, resolve
from raylm.core.context import Context
from raylm.core.errors import DataError, StageError
from raylm.data.shards import Rows
from raylm.evaluate import previous, report
from raylm.evaluate.comparison import plain
from raylm.evaluate.config import Evaluate
from raylm.evaluate.examinations import Examinations
from raylm.evaluate.findings import find
from raylm.evaluate.gate import failures, said
from raylm.evaluate.techniques.compared import compare_techniques, lines, section

Grades = dict[str, dict[str, float]]


def run(cfg: Evaluate, ctx: Context) -> Report:
    """Grade all models.

    Raises:
        DataError: a task has no held-out rows.
        StageError: a model has no grade in a task; everything else is graded, kept and in the report.
    """
    from rich.console import Console

    cards: list[Any] = [resolve(card) for card in cfg.tasks]
    for card in cards:
        if getattr(card, "rows", None) is None:
            continue
        rows = ctx.open(card.rows)
        if not rows.shards("held_out-"):
            raise DataError(
                f"task {card_kind(card)} has no held-out rows", where=rows.uri, next="raise held_out of its tokenize stage"
            )
    better = {name: direction for card in cards for name, direction in card.better.items()}
    grades = _compressors(cards, ctx)
    asked = Examinations(cfg, cards, ctx)
    asked.by_logprobs()
    asked.by_answers()
    asked.by_endpoints()
    asked.by_instances()
    grades |= asked.grades()
    graded, by_task = asked.graded(), asked.cards()
    earlier = previous.models_of(ctx.open_as(cfg.against, Report), cfg.models[-1], list(graded)) if cfg.against else {}
    found = find(
        {name: one.tasks for name, one in earlier.items()} | graded, by_task, {name: one.against for name, one in earlier.items()}
    )
    models: list[Artifact] = [made for ref in cfg.models if ctx.is_stage(ref) and isinstance(made := ctx.open(ref), Checkpoint)]
    png = report.picture(report.road(models))
    by_metric = {
        model: {name: rows for task, rows in tasks.items() for name in by_task[task].better} for model, tasks in graded.items()
    }
    measures = {name: card for card in cards for name in card.better}
    reasons = failures(grades[cfg.models[-1]], cfg.gate, better, cfg.models[-1], by_metric, measures)
    notes = [*_before_and_after(models), *_loss_of_compression(cfg, models, grades), *asked.notes(), *_gate(cfg, reasons)]
    techniques = compare_techniques(by_task, graded)
    parts = [section(techniques), *_sections(by_task, graded)]
    notes += lines(techniques)
    ctx.out.write("curves.png", png)
    ctx.out.write("report.html", report.page(f"raylm report: {ctx.stage}", grades, better, png, notes, found, parts))
    missing = asked.missing
    told = {"grades": grades, "better": better, "notes": notes, "missing": missing, "passed": not reasons and not missing}
    told |= {"instances": asked.files(), **found.plain(), "techniques": plain(techniques)}
    ctx.out.write_json("report.json", told)
    console = Console()
    console.print(report.table(grades, better))
    for note in [*report.short(found, cfg.models[-1]), *notes]:
        console.print(f"  {note}", highlight=False, markup=False)
    console.print(f"  report with curves: {ctx.out.path('report.html')}", highlight=False, soft_wrap=True)
    if missing:
        count = sum(map(len, missing.values()))
        raise StageError(
            f"{count} {'grade is' if count == 1 else 'grades are'} missing, the others are kept: "
            + "; ".join(f"{model} in {task}: {why}" for model, tasks in missing.items() for task, why in tasks.items()),
            where=ctx.out.path("report.html"),
            next="mend it, then the same command asks for these grades only",
        )
    return ctx.commit(
        Report, facts={"passed": not reasons, "reasons": reasons, "model": cfg.models[-1]}, metrics={"grades": grades}
    )


def _sections(cards: dict[str, Any], graded: dict[str, Any]) -> list[tuple[str, str]]:
    """Parts of the report that tasks make of their own instances."""
    asked = {task: {model: tasks[task] for model, tasks in graded.items() if task in tasks} for task in cards}
    return [card.section(asked[task]) for task, card in cards.items() if hasattr(card, "section") and asked[task]]


def _gate(cfg: Evaluate, reasons: list[str]) -> list[str]:
    if not cfg.gate:
        return []
    return [f"GATE: {reason}" for reason in reasons] or [
        f"the gate is passed: {', '.join(said(name, limit) for name, limit in cfg.gate.items())}"
    ]


def _compressors(cards: list[Any], ctx: Context) -> Grades:
    found: Grades = {}
    for card in cards:
        if hasattr(card, "baselines"):
            rows = ctx.open(card.rows)
            found |= card.baselines(Rows.open(rows.uri, "held_out"), rows.folder.path("tokenizer"))
    return found


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
        measured = grades.get(name, {}).items()
        changes = [f"{key} {value - grades[source][key]:+.4f}" for key, value in measured if key in grades[source]]
        dtypes = [model.facts.get(key) for key in ("dtype_before", "dtype")]
        alike = f" (both in {dtypes[1]}; {source} is stored in {dtypes[0]})" if dtypes[0] != dtypes[1] else ""
        size = f"{name} is {model.metrics['size_ratio']:.2f} times smaller than {source}{alike}"
        notes.append(f"{size}; it costs {', '.join(changes) or 'what could not be measured'}")
    return notes
