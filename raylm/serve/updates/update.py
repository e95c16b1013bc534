"""`raylm update`, `raylm rollback` and `raylm rollout`: what is asked for is proved here, and carried out by Control.

endpoint, checkpoint -> gate, files, network, tokenizer, what transformers says -> .rollouts/{stage}.asked.json -> Control
                                                                                    .rollouts/{stage}.state.json <-'
"""

from __future__ import annotations

import argparse
import re
import time
from typing import Any

from raylm.core.artifact import Artifact, Endpoint, Report, open_artifact
from raylm.core.config import did_you_mean
from raylm.core.errors import ArtifactError, ConfigError, PlacementError, StageError
from raylm.core.storage import Folder
from raylm.serve.api.models import lineage_of
from raylm.serve.updates.history import Ask, How, Progress, Version, Versions, now, who

POLL_S = 0.5
WIDTH = 200
"""Characters of a line of the history, at most."""
TAKEN_S = 60.0
"""Seconds in which Control must take up what was asked for."""
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def update(arguments: argparse.Namespace) -> int:
    """Let an endpoint answer with another checkpoint."""
    from raylm.serve.updates import proofs

    endpoint = _endpoint(arguments.endpoint)
    versions, model = Versions.of(endpoint.folder), _model(endpoint, arguments.name)
    found = proofs.target(arguments.model)
    served = _told(endpoint, model)
    now_has = _serving(endpoint, versions, model)
    if now_has.fingerprint == found.fingerprint:
        raise ConfigError(f"{model} has these weights already ({found.fingerprint})", where=found.uri)
    report = proofs.check_gate(found, bool(served.get("requires")), arguments.report)
    share, keys = arguments.canary or 0.0, [each for each in (arguments.canary_keys or "").split(",") if each]
    rolling = arguments.rolling or (_has_room_for_adapters(served) and not arguments.in_place)
    if arguments.in_place and _has_room_for_adapters(served):
        raise ConfigError("an engine with room for LoRA adapters takes no weights in place", where=endpoint.uri, next="--rolling")
    how = _how(now_has, found.folder, arguments.in_place, rolling, bool(share or keys or arguments.shadow))
    print(f"{model}: {now_has.fingerprint} -> {found.fingerprint} ({how.replace('_', ' ')}); what transformers says of it ...")
    asked = Ask(
        number=now(),
        by=who(),
        model=model,
        uri=found.uri,
        fingerprint=found.fingerprint,
        content=found.content,
        how=how,
        report=report,
        lineage=lineage_of(found.artifact, arguments.model, found.fingerprint, _report(report)),
        share=share,
        keys=keys,
        shadow=arguments.shadow or 0.0,
        for_s=seconds(arguments.canary_for) if share or keys or arguments.shadow else 0.0,
        error_rate=arguments.max_errors,
        disagree_rate=arguments.max_disagree,
        proof=_proof(endpoint, found.folder, served),
        why=arguments.why or "",
    )
    return _carried_out(versions, asked, arguments)


def rollback(arguments: argparse.Namespace) -> int:
    """Give up what is under way; or bring back an earlier version, exactly."""
    from raylm.serve.updates import proofs

    endpoint = _endpoint(arguments.endpoint)
    versions, model = Versions.of(endpoint.folder), _model(endpoint, arguments.name)
    if not arguments.fingerprint and (waiting := versions.under_way()) is not None:
        stop = waiting.model_copy(update={"number": now(), "by": who(), "stop": True, "why": arguments.why or "", "proof": None})
        versions.ask(stop)
        print(f"given up: {waiting.model} to {waiting.fingerprint}")
        if (at := versions.progress()) is not None and at.number == waiting.number:
            _follow(versions, waiting.number)
        return 0
    version = versions.find(model, arguments.fingerprint or "")
    found = proofs.target(version.uri)
    # what raylm did not make was known by its name alone when the endpoint started
    known = found.artifact is not None or version.how != "start"
    if (known and found.fingerprint != version.fingerprint) or (version.content and found.content != version.content):
        raise ArtifactError(
            f"version {version.fingerprint} lies there no more: there is {found.fingerprint}",
            where=version.uri,
            next="name a checkpoint: raylm update ENDPOINT MODEL",
        )
    rolling = _has_room_for_adapters(_told(endpoint, model))
    how = _how(_serving(endpoint, versions, model), found.folder, False, rolling, False)
    print(
        f"{model}: back to {version.fingerprint} of {version.began} ({how.replace('_', ' ')}); what transformers says of it ..."
    )
    asked = Ask(
        number=now(),
        by=who(),
        model=model,
        uri=version.uri,
        fingerprint=version.fingerprint,
        content=version.content,
        how=how,
        report=version.report,
        lineage=version.lineage,
        proof=_proof(endpoint, found.folder, _told(endpoint, model)),
        why=f"rolled back by {who()}{f': {arguments.why}' if arguments.why else ''}",
    )
    return _carried_out(versions, asked, arguments)


def rollout(arguments: argparse.Namespace) -> int:
    """What is under way, and every version so far."""
    from rich.console import Console
    from rich.table import Table

    versions = Versions.of(_endpoint(arguments.endpoint).folder)
    # a terminal wraps long lines; a table that is made to fit cuts off why a version ended
    at, console = versions.progress(), Console(soft_wrap=True, width=WIDTH)
    if at is not None:
        console.print(f"{at.model}: {at.before} -> {at.fingerprint}: {at.phase}", highlight=False)
        for line in at.said:
            console.print(f"  {line}", highlight=False, markup=False)
        for name, figures in at.figures.items():
            console.print(f"  {name}: {figures}", highlight=False, markup=False)
    table = Table("model", "fingerprint", "how", "since", "by", "until", "why it ended", box=None)
    for each in versions.read():
        table.add_row(each.model, each.fingerprint, each.how, each.began, each.by, each.ended or "-", each.why)
    console.print(table)
    print(f"next: raylm rollback {arguments.endpoint} [FINGERPRINT]")
    return 0


def _has_room_for_adapters(served: dict[str, Any]) -> bool:
    return bool(served.get("adapters") or served.get("lora"))


def seconds(text: str) -> float:
    """`90`, `90s`, `10m` or `2h` in seconds. Raises ConfigError for another form."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if found is None:
        raise ConfigError(f"{text!r} is no time", next="say 90s, 10m or 2h")
    return float(found[1]) * _SECONDS[found[2] or "s"]


def _how(now_has: Version, folder: str, in_place: bool, rolling: bool, canary: bool) -> How:
    """In place where an engine can take these weights, and both versions are not to stand beside each other for a time."""
    from raylm.model.load import on_this_machine
    from raylm.serve.updates import proofs

    if rolling:
        return "rolling"
    reasons = proofs.differences(on_this_machine(now_has.uri), folder)
    if reasons and in_place:
        raise ConfigError(
            f"an engine cannot take these weights in place: {'; '.join(reasons)}",
            where=folder,
            next="the same with --rolling: replicas start new engines, one after the other",
        )
    if reasons:
        print(f"not in place: {'; '.join(reasons)}")
    return "rolling" if reasons or (canary and not in_place) else "in_place"


def _proof(endpoint: Artifact, folder: str, served: dict[str, Any]) -> Any:
    """What transformers says of the checkpoint; None for a model that answers with no text."""
    from raylm.serve.updates import proofs, reference

    config = endpoint.manifest.config
    if served.get("task", "generate") != "generate":
        raise StageError(
            "only models that answer with text can be proved before clients get them",
            where=endpoint.uri,
            next="serve the other checkpoint anew: raylm run JOB --rebuild STAGE",
        )
    made = proofs.proof(folder, served["dtype"], reference.PROBES, float(config.get("compare_up_to_gb", 4.0)))
    return made.model_copy(update={"logprobs": (config.get("limits") or {}).get("num_logprobs", 20) > 0})


def _report(uri: str) -> Report | None:
    found = open_artifact(Folder(uri)) if uri else None
    return found if isinstance(found, Report) else None


def _endpoint(uri: str) -> Artifact:
    found = open_artifact(Folder(uri))
    if not isinstance(found, Endpoint):
        raise ArtifactError(
            f"an Endpoint is updated, this is a {found.kind}", where=found.uri, next="name a serve stage's folder"
        )
    return found


def _model(endpoint: Artifact, name: str | None) -> str:
    """The model that is meant: the first one, or the one of that name."""
    known = list(endpoint.facts.get("models") or {endpoint.facts["model_name"]: None})
    if name is not None and name not in known:
        raise ConfigError(f"this endpoint serves no model {name!r}.{did_you_mean(name, known)}", where=endpoint.uri)
    return name or endpoint.facts["model_name"]


def _told(endpoint: Artifact, model: str) -> dict[str, Any]:
    """What the endpoint's config and its manifest say of a model."""
    facts = (endpoint.facts.get("models") or {}).get(model) or endpoint.facts
    config = endpoint.manifest.config
    of_it = [config, *config.get("more", [])]
    mine = next((each for each in of_it if each.get("model_name", "raylm") == model), {})
    return {**mine, **facts}


def _serving(endpoint: Artifact, versions: Versions, model: str) -> Version:
    """What clients of a model have now."""
    if (current := versions.current(model)) is not None:
        return current
    facts = _told(endpoint, model)
    made = {each.fingerprint: each.uri for each in endpoint.manifest.inputs}
    uri = facts.get("uri") or made.get(facts["served"]) or ""
    if not uri:
        raise ArtifactError("the endpoint does not say where its weights lie", where=endpoint.uri, next="serve it anew")
    made_at = endpoint.manifest.made_at
    return Version(model=model, fingerprint=facts["served"], uri=uri, how="start", began=made_at, by="")


def _carried_out(versions: Versions, asked: Ask, arguments: argparse.Namespace) -> int:
    versions.ask(asked)
    if arguments.detach:
        print(f"asked for\nnext: raylm rollout {arguments.endpoint}")
        return 0
    done = _follow(versions, asked.number)
    print(f"next: raylm {'chat' if done == 0 else 'rollout'} {arguments.endpoint}")
    return done


def _follow(versions: Versions, number: str) -> int:
    """Print what happens until it is over. Ctrl-C leaves it to Control."""
    told, until = 0, time.monotonic() + TAKEN_S
    while True:
        at: Progress | None = versions.progress()
        if at is None or at.number != number:
            if time.monotonic() > until:
                raise PlacementError(
                    f"nobody took it up within {TAKEN_S:g} s: the endpoint does not run, or its Control cannot read this folder",
                    where=versions.uri,
                    next="raylm run JOB serves it",
                )
        else:
            for line in at.said[told:]:
                print(f"  {line}", flush=True)
            told = len(at.said)
            if at.over:
                return 0 if at.phase == "done" else 1
        time.sleep(POLL_S)
