"""What is known of a training stage's model and rows before anything runs, as a forecast; and the checks of cards, models and
prompts that are possible then."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from raylm.compress.config import Compress
from raylm.core.artifact import MANIFEST, open_artifact
from raylm.core.config import ENDPOINT, Config, CustomCard, resolve, resolved
from raylm.core.errors import ConfigError, PlanError
from raylm.core.storage import Folder
from raylm.core.variants import VALUED
from raylm.data.mixture import refs_of
from raylm.evaluate.config import Evaluate
from raylm.evaluate.resolution import before_the_run
from raylm.inference.engine_dtype import (
    Machine,
    formats,
    quantization,
    refusals,
    scheme_of,
    stored_dtype,
    this_machine,
)
from raylm.job import Job, Step, check_references
from raylm.model.adapters.checks import beside_new_head
from raylm.model.model_spec import FAMILIES
from raylm.model.preflight import variant_in
from raylm.parallel import matrix
from raylm.parallel.optimizers.schedule import Scheduled
from raylm.parallel.strategies.strategy import Strategy
from raylm.rl import checks
from raylm.rl.config import RL
from raylm.rl.critic import Critic, laid, needs_critic, shares
from raylm.rl.forecast import forecast_reward, forecast_roles
from raylm.rl.rewards.reward import names_of
from raylm.serve.guards.guard import Guard
from raylm.train.config import Train
from raylm.train.objectives.objective import Objective
from raylm.trainer.forecast.load import loss_of
from raylm.trainer.forecast.report import Known, forecast, suggestions
from raylm.trainer.forecast.teacher import stored_answers, teacher_workers

CALLED = (
    ("tasks", "grade", "grade(lm, rows)"),
    ("method", "apply", "apply(model, calibration)"),
    ("format", "write", "write(source, out)"),
)
"""Methods that cards of these fields are called by."""


def estimate(job: Job, name: str) -> list[str]:
    """Lines of forecast for `raylm plan`; none where too little is known.

    Raises:
        PlanError: the stage names a device that cannot hold it.
    """
    known = _known(job, name)
    if not known or any(_importable(card) for card in _custom_cards(job.stages[name])):
        return []  # `check` says what a card lacks here
    cfg: Any = job.stages[name]
    if not isinstance(cfg, RL):
        return [*forecast(cfg, known, name), *_scorers(job, name, known)]
    lines = forecast(cfg, known, name, priced=not cfg.generator.gpus)
    return [*lines, *_rewards(job, cfg, known, name), *forecast_roles(cfg, known, name)] if lines else []


def _rewards(job: Job, cfg: RL, known: Known, name: str) -> list[str]:
    """Lines on rewards that hold a model on GPUs of their own. Raises PlanError where one cannot."""
    lines, kind = [], cfg.workers.device
    for card, called in zip(cfg.rewards, names_of(cfg.rewards), strict=True):
        role = getattr(card, "role", lambda: None)()
        model: Any = getattr(card, "model", None)
        if role is None or not role.gpus or kind is None or not model:
            continue
        config = _config(job, cfg.model_copy(update={"model": model}), known.config["vocab_size"])
        if config and config.get("model_type") in FAMILIES:
            lines.append(forecast_reward(card, config, kind, known.length, f"{name}.reward_{called}"))
    return lines


def _scorers(job: Job, name: str, known: Known) -> list[str]:
    """What a teacher needs that has workers of its own, and what a pass over all rows ahead of training keeps."""
    cfg: Any = job.stages[name]
    objective: Any = resolve(getattr(cfg, "objective", None))
    if not getattr(objective, "teacher", None) or not (objective.scores_ahead() or objective.scores_beside()):
        return []
    rows = _num_rows(refs_of(cfg.rows))
    kept = stored_answers(objective, known.length, rows) if objective.scores_ahead() else []
    return [*kept, *teacher_workers(cfg, objective, _teacher(job, cfg), name)]


def engine_formats(job: Job, name: str, machine: Machine | None = None) -> list[str]:
    """Lines on models whose engine will not compute in the checkpoint's own format on a machine like this one."""
    at, lines = machine or this_machine(), []
    # what an endpoint answers for has its engine there
    elsewhere = {other for other, stage in job.stages.items() if stage.makes() == ENDPOINT}
    for engine in job.stages[name].engines():
        if (ref := engine.model) in elsewhere:
            continue
        config = _network(job, ref)
        own = stored_dtype(config) or "float32"
        taken, why = formats(scheme_of(config), engine.gpu, at)
        lines += [
            f"no engine runs {ref} on a machine like this one: {lacks}"
            for lacks, _ in refusals(config, engine.kv_cache_dtype, engine.gpu, at)
        ]
        wanted = own if engine.dtype == "auto" else engine.dtype
        if not taken:
            lines.append(f"no engine runs {ref} on a machine like this one: {why}")
        elif wanted not in taken:
            lines.append(f"engines of {ref} compute not in {wanted} but in {taken[0]} on a machine like this one: {why}")
    return lines


def _network(job: Job, ref: str) -> dict[str, Any]:
    """config.json of a model as far as it decides the kernels of engines: by its files, or by the stage that will make it."""
    folder = job.folder(ref) if ref in job.stages else Folder(ref)
    if folder.is_local and folder.exists("config.json"):
        return folder.read_json("config.json")
    if ref not in job.stages:
        return config_of(ref) or {}
    made_by: Any = job.stages[ref]
    found = (_config(job, made_by, 1) or {}) if hasattr(made_by, "model") else {}
    # not what it is stored in, nor how it is quantized
    shape = ("hidden_size", "num_attention_heads", "head_dim", "kv_lora_rank", "hidden_size_per_head", "attention_head_dim")
    known = {} if "text_config" in found else {name: found[name] for name in shape if name in found}
    if not isinstance(made_by, Compress):
        return known
    method = made_by.cards()[0]
    cache = {"kv_cache_scheme": {"num_bits": 8}} if made_by.kv_cache else {}
    schemes = (getattr(method, name, "") for name in ("scheme", "second_scheme"))
    rounded = quantization(*schemes, reduced=getattr(method, "reduce_range", False))
    return known | {"quantization_config": rounded | cache}


def check(job: Job, step: Step, steps: list[Step]) -> list[str]:
    """What may go wrong with a stage that is to do, in lines.

    Args:
        steps: all stages; what lies where another one is still to do says nothing of what it will make.

    Raises:
        ConfigError: what must go wrong: a custom card that cannot be made, prompts that do not fit the model.
    """
    if step.state == "ready":
        return []
    lines: list[str] = []
    try:
        for card in (cards := _custom_cards(step.config)):
            lines += _importable(card)
        if cards and not lines:
            _check_resolved(job, step)
        if step.config.stage == "rl":
            if not lines:
                checks.check_cards(step.config)
            lines += _fits(job, step.config, {each.name for each in steps if each.state != "ready"})
        if isinstance(step.config, Evaluate) and not lines:
            lines += before_the_run(step.config, partial(_held_out, job, {each.name for each in steps if each.state != "ready"}))
    except ConfigError as error:
        place = error.where or ""
        told = f" ({place})" if "/" in place else f".{place}" if place else ""
        raise ConfigError(error.what, where=f"stages.{step.name}{told}", next=error.next) from error.__cause__
    return lines


def _held_out(job: Job, to_do: set[str], rows: str) -> int | None:
    """Number of held-out rows, as far as they are there."""
    counts = None if rows in to_do else _facts(job.folder(rows).path() if rows in job.stages else rows).get("rows")
    return counts.get("held_out") if isinstance(counts, dict) else None


def _check_resolved(job: Job, step: Step) -> None:
    """What is checked of every stage when its job is read, now that its custom cards are known. Raises ConfigError, PlanError."""
    cfg: Any = resolved(step.config)
    for name, base in (("objective", Objective), ("optimizer", Scheduled), ("strategy", Strategy)):
        if not isinstance(getattr(cfg, name, None), (base, type(None))):
            raise ConfigError(
                f"the custom card is no {name}", where=name, next=f"derive it from {base.__module__}.{base.__name__}"
            )
    for place, guard in enumerate(getattr(cfg, "guards", ())):
        if not isinstance(guard, Guard):
            raise ConfigError(
                "the custom card is no guard", where=f"guards.{place}", next=f"derive it from {Guard.__module__}.Guard"
            )
    for name, method, called in CALLED:
        found = getattr(cfg, name, None)
        for card in found if isinstance(found, list) else [found]:
            if card is not None and not callable(getattr(card, method, None)):
                raise ConfigError(f"the custom card {type(card).__name__!r} has no method {called}", where=name)
    if isinstance(step.config, Compress) and (wrong := step.config.misfit()):
        raise ConfigError(wrong)
    check_references(job, step.name, cfg)
    new_head = (
        cfg.stage == "train" and cfg.adapter and cfg.objective.makes in VALUED and "score" not in cfg.adapter.modules_to_save
    )
    if new_head and not _may_be_valued(job, cfg.model):
        raise beside_new_head()
    if hasattr(cfg, "strategy") and (reason := matrix.refusal(matrix.features(cfg))):
        raise ConfigError(reason)


def _may_be_valued(job: Job, model: Any) -> bool:
    """Whether training starts from a model with a value head, or this cannot be known here."""
    if not isinstance(model, str):
        return False
    if model not in job.stages:
        return not Path(model).is_dir() or variant_in(Path(model)) in VALUED
    made_by = job.stages[model]
    return any(_importable(card) for card in _custom_cards(made_by)) or resolved(made_by).makes().variant in VALUED


def _importable(card: CustomCard) -> list[str]:
    """Raises ConfigError when a card cannot be made; a line where only something that it imports is missing here."""
    try:
        card.card()
    except ConfigError as error:
        missing = getattr(error.__cause__, "name", None)
        module = card.path.partition(":")[0]
        if not isinstance(error.__cause__, ModuleNotFoundError) or not missing or f"{module}.".startswith(f"{missing}."):
            raise
        return [f"the custom card {card.path!r} cannot be checked here: it imports {missing!r}, which this machine has not"]
    return []


def _custom_cards(value: Any) -> list[CustomCard]:
    if isinstance(value, CustomCard):
        return [value]
    parts = [getattr(value, name) for name in type(value).model_fields] if isinstance(value, Config) else value
    parts = parts.values() if isinstance(parts, dict) else parts
    return [card for part in parts for card in _custom_cards(part)] if isinstance(parts, (list, tuple, type({}.values()))) else []


def _fits(job: Job, cfg: Any, to_do: set[str]) -> list[str]:
    """Prompts against the model of an rl stage, as far as either is known."""
    folder = job.folder(cfg.prompts) if cfg.prompts in job.stages else Folder(cfg.prompts)
    form = getattr(job.stages.get(cfg.prompts), "form", None)
    if cfg.prompts not in to_do and folder.exists(MANIFEST):
        known = checks.known_of(open_artifact(folder))
    else:
        known = checks.Known({"vocab_size": _vocabulary(job, cfg.prompts), "length": getattr(form, "length", None)})
    model = job.folder(cfg.model) if cfg.model in job.stages else Folder(cfg.model)
    made = cfg.model not in to_do and model.exists("config.json")
    config = model.read_json("config.json") if made else _config(job, cfg, known.facts.get("vocab_size"))
    return checks.check_prompts(cfg, known, model.uri, config or {}, made)


def suggest(job: Job, name: str) -> list[tuple[str, str]]:
    """Layouts for a stage, fastest first: (forecast, TOML).

    Raises:
        PlanError: the stage trains nothing, too little is known of it, or nothing fits.
    """
    known = _known(job, name) if name in job.stages else None
    if known is None:
        raise PlanError(
            f"{name!r} is no train or rl stage whose model and rows are known before it runs",
            next="name a stage with a shape (or a folder with config.json) and rows or prompts of a tokenize stage",
        )
    return suggestions(job.stages[name], known)


def _known(job: Job, name: str) -> Known | None:
    cfg = job.stages[name]
    if not isinstance(cfg, (Train, RL)):
        return None
    rows = refs_of(cfg.rows)[0] if isinstance(cfg, Train) else cfg.prompts
    length = _length(job, rows)
    config = _config(job, cfg, _vocabulary(job, rows))
    size = cfg.planned(length) if length is not None else None
    if config is None or size is None:
        return None
    objective: Any = resolve(getattr(cfg, "objective", None))
    apart = any(getattr(objective, name, bool)() for name in ("scores_ahead", "scores_beside"))
    return Known(config, *size, teacher=None if apart else _teacher(job, cfg), critic=_critic(job, cfg, config))


def _critic(job: Job, cfg: Any, config: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
    """The stage as its critic is laid out by it, and config.json of that model: the policy's where it begins as that or is not
    known."""
    if not isinstance(cfg, RL) or not needs_critic(cfg.algorithm):
        return None
    if shares(cfg):
        return None
    card = cfg.critic or Critic()
    own = _config(job, cfg.model_copy(update={"model": card.model}), config["vocab_size"]) if card.model else None
    # of the algorithm's needs it has none
    return laid(cfg, card).model_copy(update={"algorithm": None}), own if own and own.get("model_type") in FAMILIES else config


def _teacher(job: Job, cfg: Any) -> dict[str, Any] | None:
    """config.json of the model that the objective or algorithm of a stage is taught by, where it is known."""
    ref = getattr(loss_of(cfg), "teacher", None)
    rows = refs_of(cfg.rows)[0] if isinstance(cfg, Train) else cfg.prompts
    found = _config(job, cfg.model_copy(update={"model": ref}), _vocabulary(job, rows)) if ref else None
    return found if found and found.get("model_type") in FAMILIES else None


def _num_rows(refs: list[str]) -> int | None:
    """Training and held-out rows of artifacts that lie there; None where one of them is still to be made."""
    known = [_facts(ref).get("rows") for ref in refs]
    counts = [each for each in known if each is not None]
    return sum(sum(each.values()) for each in counts) if len(counts) == len(known) else None


def _config(job: Job, cfg: Any, vocab: int | None) -> dict[str, Any] | None:
    """config.json of the stage's model: of its shape, of the stage that made it, or of the folder it lies in."""
    if not isinstance(cfg.model, str):
        return cfg.model.config({"vocab_size": vocab}) if vocab else None
    if cfg.model in job.stages:
        before: Any = job.stages[cfg.model]
        found = _config(job, before, vocab) if hasattr(before, "model") and not hasattr(before, "models") else None
        cut = getattr(before.cards()[0], "planned", None) if isinstance(before, Compress) else None
        return cut(found) if found and cut else found
    folder = Folder(cfg.model)
    if folder.is_local and folder.exists("config.json"):
        return folder.read_json("config.json")
    return config_of(cfg.model)


def config_of(name: str) -> dict[str, Any] | None:
    """config.json of a hub's model where it was fetched before (`hf download NAME config.json`); nobody is asked for it."""
    try:
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        found = try_to_load_from_cache(name, "config.json")
    except (ImportError, HFValidationError):
        return None
    return json.loads(Path(found).read_text()) if isinstance(found, str) else None


def _length(job: Job, rows: str) -> int | None:
    if rows in job.stages:
        return getattr(getattr(job.stages[rows], "form", None), "length", None)
    folder = Folder(rows)
    return (
        folder.read_json("manifest.json")["facts"].get("length") if folder.is_local and folder.exists("manifest.json") else None
    )


def _vocabulary(job: Job, rows: str) -> int | None:
    """Size of the tokenizer that makes `rows`, where the job says it."""
    tokenizer = getattr(job.stages.get(rows), "tokenizer", None)
    if isinstance(tokenizer, str):
        return _vocabulary(job, tokenizer)
    if tokenizer is not None:
        return getattr(tokenizer, "vocab_size", None)
    return _facts(rows).get("vocab_size")


def _facts(rows: str) -> dict[str, Any]:
    folder = Folder(rows)
    return folder.read_json(MANIFEST)["facts"] if folder.is_local and folder.exists(MANIFEST) else {}
