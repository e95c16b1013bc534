"""The `serve` stage: an endpoint that answers, is compared with transformers, and requires keys.

gate -> port -> deploy ----------------------> ready -> compare -> ask -> commit
                  \\-> reference (transformers) --------/
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from pathlib import Path
from typing import Any, NamedTuple

from raylm.core.artifact import MANIFEST, Endpoint, Report
from raylm.core.config import digest_of
from raylm.core.context import Context
from raylm.core.errors import StageError
from raylm.core.storage import Folder
from raylm.core.workers import KEY_VARIABLE
from raylm.inference.client import connect
from raylm.inference.engine_dtype import engine_dtype, network_of
from raylm.model.load import on_this_machine
from raylm.model.preflight import variant_in
from raylm.serve import cluster, operator
from raylm.serve.adapter_commands import check_loaded
from raylm.serve.api.models import lineage_of
from raylm.serve.api.tasks import ROUTES, TEXT, check_fits
from raylm.serve.audit import audit_folder
from raylm.serve.config import Serve
from raylm.serve.control import ControlSettings
from raylm.serve.directory import AdapterOrder, Orders, Spares
from raylm.serve.engine import app, serving
from raylm.serve.gateway import nodes
from raylm.serve.gateway.settings import STAGE, GatewaySettings, ModelFacts
from raylm.serve.keys import KeyFile, key_digest
from raylm.serve.scaling.log import scaling_folder
from raylm.serve.served_model import ServedModel
from raylm.serve.updates import parity, reference
from raylm.serve.updates.history import Version, Versions, now, who

KEY_FILE = "key"
NUM_PROBES = 8


class Key(NamedTuple):
    """The endpoint's key, None where none is asked, and the file it lies in, if it lies in one."""

    value: str | None
    file: str | None


def run(cfg: Serve, ctx: Context) -> Endpoint:
    """Serve `cfg.model` and leave where it answers.

    Raises:
        StageError: the gate did not pass, the replica did not start, or the endpoint does not say what transformers says.
        PlacementError: the port is taken, the cluster has no room, or a deadline passed.
        PlanError: another process serves this endpoint.
    """
    _check_gate(cfg, ctx)
    serving.take(ctx.out)
    with contextlib.ExitStack() as failed:
        failed.callback(serving.leave, ctx.out)
        made = _serve(cfg, ctx)
        failed.pop_all()
    return made


def _serve(cfg: Serve, ctx: Context) -> Endpoint:
    cluster.check_port(cfg, ctx.workers, ctx.stage, ctx.out.uri)
    ctx.workers.check_room(cfg.roles(), ctx.stage)
    models = [_behind(ctx, model) for model in cfg.models]
    # key and manifest of an earlier endpoint: not before it is sure that it does not answer any more
    ctx.out.remove()
    key, own = _key(cfg, ctx.out), secrets.token_urlsafe(32)
    started = time.monotonic()
    parts = _parts(cfg, ctx, models, key_digest(key.value) if key.value else None, key_digest(own))
    cluster.deploy(cfg, ctx.workers, parts, ctx.stage, lambda: serving.leave(ctx.out))
    # the engines need their seconds; transformers computes the reference in them
    expected = [_expected(cfg, each, each.likely) for each in models]
    dtypes = cluster.wait_until_ready(cfg, {each.name: each.fingerprint for each in models}, started + cfg.start_s, ctx.stage)
    start_s = round(time.monotonic() - started, 1)
    operator.note(ctx.out, cluster.application_name(cfg))
    for each in models:
        check_loaded(operator.calls(cluster.application_name(cfg)), each.name, each.adapters)
    client = connect(cluster.url(cfg), key.value, parity.REQUEST_S, {STAGE: own})
    proved = {}
    for each, made in zip(models, expected, strict=True):
        # the replica stands on a machine with other kernels than this one
        again = _expected(cfg, each, dtypes[each.name]) if dtypes[each.name] != each.likely else made
        if again is not None:
            proved[each.name] = parity.compare(client, each.name, again, cfg.limits.num_logprobs > 0)
            parity.refuse_unequal(proved[each.name], dtypes[each.name], each.network.quantized, where=cluster.url(cfg))
    first = proved.get(cfg.model_name)
    answers = parity.ask(client, cfg, first.chat) if first else []
    facts = [_facts(each, dtypes[each.name], proved.get(each.name)) for each in models]
    return ctx.commit(
        Endpoint,
        facts={
            "url": cluster.url(cfg),
            "model_name": cfg.model_name,
            "key_file": key.file,
            "asks_key": key.value is not None,
            **facts[0],
            "models": {each.name: told for each, told in zip(models, facts, strict=True)},
            "start_s": start_s,
            "answers": answers,
        },
        metrics={
            "url": cluster.url(cfg),
            "template_equal": facts[0]["template_equal"],
            "greedy_equal": facts[0]["greedy_equal"],
            "start_s": start_s,
        },
    )


class Behind(NamedTuple):
    """One model behind the door."""

    model: ServedModel
    uri: str
    fingerprint: str
    local: str
    network: reference.Network
    likely: str
    """Number format that this machine would compute in."""
    adapters: tuple[AdapterOrder, ...]
    lineage: dict[str, Any]

    @property
    def name(self) -> str:
        return self.model.model_name


def _behind(ctx: Context, model: ServedModel) -> Behind:
    uri, fingerprint = _model(model, ctx)
    local = on_this_machine(uri)
    made = ctx.open(model.model) if ctx.is_stage(model.model) or Folder(model.model).exists(MANIFEST) else None
    check_fits(model.task, made.made.variant if made else variant_in(Path(local)), where=model.model)
    cache = model.engine.kv_cache_dtype
    likely = engine_dtype(network_of(local), model.dtype, model.workers.gpus > 0, where=uri, cache=cache).name
    adapters = tuple(AdapterOrder(each.name, _place(each.path, ctx)) for each in model.adapters)
    report = ctx.open_as(model.requires, Report) if model.requires else None
    lineage = lineage_of(made, model.model, fingerprint, report)
    return Behind(model, uri, fingerprint, local, reference.network(local), likely, adapters, lineage)


def _parts(cfg: Serve, ctx: Context, models: list[Behind], key: str | None, own: str) -> cluster.Parts:
    """What is deployed. No secret, but digests of them."""
    keys = KeyFile.of(ctx.out)
    versions = Versions.of(ctx.out)
    began, by = now(), who()
    started = [(each.name, each.fingerprint, each.uri) for each in models]
    versions.begin([Version(model=name, fingerprint=of, uri=uri, how="start", began=began, by=by) for name, of, uri in started])
    counted, orders = (keys.folder.path(f"{ctx.stage}.{what}.json") for what in ("counted", "orders"))
    # what was ordered of an endpoint ends with it
    keys.folder.remove(f"{ctx.stage}.orders.json")
    several, guards = cfg.gateway.nodes == "every", tuple(cfg.guards)
    served = tuple(_served(cfg, ctx, each) for each in models)
    facts = tuple(
        ModelFacts(
            name=each.name,
            deployment=cluster.deployment_name(number),
            fingerprint=each.fingerprint,
            dtype=each.likely,
            max_len=each.model.max_len or each.network.max_len or 0,
            least=each.model.replicas.min,
            most_ongoing=each.model.replicas.most_ongoing,
            routes=(*ROUTES[each.model.task], "/version"),
            routing=each.model.routing,
            lineage=each.lineage,
            created=int(time.time()),
        )
        for number, each in enumerate(models)
    )
    gateway = GatewaySettings(
        host=cfg.host,
        port=cfg.port,
        models=facts,
        spec=cfg.gateway,
        limits=cfg.limits,
        key_digest=key,
        keys_uri=keys.uri if key else "",
        stage_digest=own,
        guards=guards,
        guards_at_control=several,
        counted_uri=counted,
        audit=cfg.audit,
        audit_folder=audit_folder(ctx.out),
        num_gateways=len(nodes.alive()) if several else 1,
        application=cluster.application_name(cfg),
        holder=cluster.holder(ctx.workers, ctx.out.uri),
    )
    control = ControlSettings(
        orders={each.name: Orders(each.adapters) for each in models},
        orders_uri=orders,
        spares={each.name: Spares(each.model.replicas.spare, max(1, each.model.replicas.min)) for each in models},
        guards=guards if several else (),
        counted_uri=counted if several else "",
        gateways=gateway if several else None,
        versions_uri=versions.uri,
        began={each.name: (each.fingerprint, each.uri) for each in models},
    )
    return cluster.Parts(served, control, gateway, scaling_folder(ctx.out))


def _served(cfg: Serve, ctx: Context, each: Behind) -> app.Served:
    model = each.model
    return app.Served(
        model=each.uri,
        fingerprint=each.fingerprint,
        model_name=model.model_name,
        dtype=model.dtype,
        max_len=model.max_len,
        gpu=model.workers.gpus > 0,
        memory_share=model.memory_share,
        limits=cfg.limits,
        engine=model.engine.at(lambda ref: _place(ref, ctx)),
        task=model.task,
        adapters=each.adapters,
        lineage=each.lineage,
        lora=model.takes_adapters,
    )


def _expected(cfg: Serve, each: Behind, dtype: str) -> list[reference.Expected] | None:
    """What transformers says to the probes; None for a model that answers with no text."""
    if each.model.task != TEXT:
        return None
    return reference.expected(each.local, _probes(cfg), dtype, _may_compare(cfg, each.local))


def _facts(each: Behind, dtype: str, verdict: parity.Verdict | None) -> dict[str, Any]:
    """What the manifest keeps of a model."""
    return {
        "served": each.fingerprint,
        "uri": each.uri,
        "dtype": dtype,
        "max_len": each.model.max_len or each.network.max_len,
        "chat_template": verdict.chat if verdict else False,
        "template_equal": verdict.template if verdict else "not compared: it answers with no text",
        "greedy_equal": verdict.greedy if verdict else "not compared: it answers with no text",
        "greedy_nats_short": verdict.nats_short if verdict else 0.0,
        "logprob_nats": verdict.nats if verdict else None,
    }


def _check_gate(cfg: Serve, ctx: Context) -> None:
    for number, model in enumerate(cfg.models):
        if model.requires is None:
            continue
        report = ctx.open_as(model.requires, Report)
        if report.facts.get("passed") is False:
            key = f"stages.{ctx.stage}.requires" if number == 0 else f"stages.{ctx.stage}.more[{number - 1}].requires"
            raise StageError(
                "the report's gate did not pass, so this model is not served",
                where=report.uri,
                next=f"read the report; drop {key} to serve it all the same",
            )


def _model(model: ServedModel, ctx: Context) -> tuple[str, str]:
    """Where the weights lie, and their fingerprint. What raylm did not make is its own fingerprint."""
    if ctx.is_stage(model.model) or Folder(model.model).exists(MANIFEST):
        made = ctx.open(model.model)
        return made.uri, made.fingerprint
    folder = Folder(model.model)
    return folder.uri if folder.exists("config.json") else model.model, digest_of(model.model)


def _place(path: str, ctx: Context) -> str:
    """Where an adapter or a draft model lies."""
    return ctx.open(path).uri if ctx.is_stage(path) else path


def _key(cfg: Serve, out: Folder) -> Key:
    """The key: from the environment, or a new random one in a file that only its owner reads."""
    if cfg.insecure:
        return Key(None, None)
    if given := os.environ.get(KEY_VARIABLE):
        return Key(given, None)
    if not out.is_local:
        raise StageError("a bucket is no place for a key", where=out.uri, next=f"set {KEY_VARIABLE} in the environment")
    path, value = Path(out.make().path(KEY_FILE)), secrets.token_urlsafe(32)
    path.unlink(missing_ok=True)
    # created with its mode: a file that is narrowed afterwards could have been read in between
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(value + "\n")
    return Key(value, str(path))


def _probes(cfg: Serve) -> list[str]:
    return list(dict.fromkeys([*cfg.prompts, *reference.PROBES]))[:NUM_PROBES]


def _may_compare(cfg: Serve, local: str) -> bool:
    size_gb = reference.weights_gb(local)
    return size_gb is not None and 0 < size_gb <= cfg.compare_up_to_gb


def endpoint_key(endpoint: Any) -> str | None:
    """Key of an Endpoint artifact: its file's content, or what the environment holds; None where none is asked."""
    file = endpoint.facts.get("key_file")
    return Path(file).read_text().strip() if file else os.environ.get(KEY_VARIABLE)
