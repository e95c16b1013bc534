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
from raylm.serve import app, cluster, parity, reference, serving
from raylm.serve.audit import audit_folder
from raylm.serve.config import Serve
from raylm.serve.door import STAGE
from raylm.serve.keys import KeyFile, key_digest

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
    cluster.check_port(cfg, ctx.workers, ctx.stage)
    ctx.workers.check_room(cfg.roles(), ctx.stage)
    uri, fingerprint = _model(cfg, ctx)
    # key and manifest of an earlier endpoint: not before it is sure that it does not answer any more
    ctx.out.remove()
    local = on_this_machine(uri)
    network = reference.network(local)
    likely = engine_dtype(network_of(local), cfg.dtype, cfg.workers.gpus > 0, where=uri).name
    key = _key(cfg, ctx.out)
    digest = key_digest(key.value) if key.value else None
    own = secrets.token_urlsafe(32)
    served = app.Served(
        model=uri,
        fingerprint=fingerprint,
        model_name=cfg.model_name,
        key_digest=digest,
        dtype=cfg.dtype,
        max_len=cfg.max_len,
        gpu=cfg.workers.gpus > 0,
        memory_share=cfg.memory_share,
        limits=cfg.limits,
        stage_digest=key_digest(own),
        keys_uri=KeyFile.of(ctx.out).uri if digest else "",
        audit=cfg.audit,
        audit_folder=audit_folder(ctx.out),
        counted_uri=(KeyFile.of(ctx.out).folder / f"{ctx.stage}.counted.json").uri,
    )
    started = time.monotonic()
    cluster.deploy(cfg, ctx.workers, app.application(served, cfg), ctx.stage, lambda: serving.leave(ctx.out))
    # the engine needs its seconds; transformers computes the reference in them
    expected = reference.expected(local, _probes(cfg), likely, _may_compare(cfg, local))
    dtype = cluster.wait_until_ready(cfg, fingerprint, started + cfg.start_s, ctx.stage)
    start_s = round(time.monotonic() - started, 1)
    if dtype != likely:
        # the replica stands on a machine with other kernels than this one
        expected = reference.expected(local, _probes(cfg), dtype, _may_compare(cfg, local))
    client = connect(cluster.url(cfg), key.value, parity.REQUEST_S, {STAGE: own})
    verdict = parity.compare(client, cfg.model_name, expected, cfg.limits.num_logprobs > 0)
    parity.refuse_unequal(verdict, dtype, network.quantized, where=cluster.url(cfg))
    answers = parity.ask(client, cfg, verdict.chat)
    return ctx.commit(
        Endpoint,
        facts={
            "url": cluster.url(cfg),
            "model_name": cfg.model_name,
            "key_file": key.file,
            "asks_key": key.value is not None,
            "served": fingerprint,
            "dtype": dtype,
            "max_len": cfg.max_len or network.max_len,
            "chat_template": verdict.chat,
            "template_equal": verdict.template,
            "greedy_equal": verdict.greedy,
            "greedy_nats_short": verdict.nats_short,
            "logprob_nats": verdict.nats,
            "start_s": start_s,
            "answers": answers,
        },
        metrics={"url": cluster.url(cfg), "template_equal": verdict.template, "greedy_equal": verdict.greedy, "start_s": start_s},
    )


def _check_gate(cfg: Serve, ctx: Context) -> None:
    if cfg.requires is None:
        return
    report = ctx.open_as(cfg.requires, Report)
    if report.facts.get("passed") is False:
        raise StageError(
            "the report's gate did not pass, so this model is not served",
            where=report.uri,
            next=f"read the report; drop stages.{ctx.stage}.requires to serve it all the same",
        )


def _model(cfg: Serve, ctx: Context) -> tuple[str, str]:
    """Where the weights lie, and their fingerprint. What raylm did not make is its own fingerprint."""
    if ctx.is_stage(cfg.model) or Folder(cfg.model).exists(MANIFEST):
        made = ctx.open(cfg.model)
        return made.uri, made.fingerprint
    folder = Folder(cfg.model)
    return folder.uri if folder.exists("config.json") else cfg.model, digest_of(cfg.model)


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
