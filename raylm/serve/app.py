"""The Ray Serve application: replicas that each run vLLM behind the front door.

    client -> Serve proxy -> replica: FrontDoor -> vLLM's OpenAI app -> AsyncLLM -> engine core (a process of its own)

Serve hands the replica the raw ASGI messages, so streaming is vLLM's own.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from raylm.inference.engine import build_engine, set_environment
from raylm.inference.engine_dtype import engine_dtype, network_of
from raylm.inference.tool_families import family_of
from raylm.inference.vllm_private import (
    base_error,
    error_response,
    is_of_request,
    parameter_of,
    server_app,
    server_arguments,
)
from raylm.model.checkpoint import GENERATION, end_tokens
from raylm.model.load import load_tokenizer, on_this_machine
from raylm.serve import trial
from raylm.serve.audit import Audit, AuditLog
from raylm.serve.config import Limits, Serve
from raylm.serve.door import DTYPE, SERVED, Entry, FrontDoor
from raylm.serve.envelope import bad_request, envelope, failed, foreign, restarting, unguarded
from raylm.serve.guards.guard import Admission, Guards, Visit
from raylm.serve.keys import KeyRing
from raylm.serve.plain import plainly
from raylm.serve.requests import Reader
from raylm.serve.usage import Done

NAME = "raylm"
HEALTH_PERIOD_S = 1.0
# schemas that are tried at once; each has a process for it
TRIALS = 4


class Served(NamedTuple):
    """What a replica needs to know. No secret: of the key, and of what the stage's own
    requests carry, only digests. `dtype` is what the job asks for."""

    model: str
    fingerprint: str
    model_name: str
    key_digest: str | None
    dtype: str
    max_len: int | None
    gpu: bool
    memory_share: float
    limits: Limits
    stage_digest: str = ""
    keys_uri: str = ""
    """Of the file with further keys, see `KeyFile`."""
    audit: Audit | None = None
    audit_folder: str = ""
    counted_uri: str = ""
    """Of the file with what guards counted."""


class Replica:
    """One engine and its HTTP app. Ray Serve calls `__serve_build_asgi_app__` once the constructor is done."""

    async def __init__(self, served: Served, guards: Any = None) -> None:
        set_environment(served.gpu)
        self._served, self._guards = served, guards
        self._log: AuditLog | None = None
        await plainly(self._start())

    async def _start(self) -> None:
        served = self._served
        model = on_this_machine(served.model)
        # one after the other: setuptools, which vLLM imports, breaks when two threads import it at once; and in a thread,
        # so that Serve can ask this process how it is
        self._tools = await asyncio.to_thread(tools_of, model)
        self._arguments = await asyncio.to_thread(server_arguments, served.model_name, self._tools)
        # here and not on the driver: replicas may stand on machines of several makes
        self._dtype = engine_dtype(network_of(model), served.dtype, served.gpu, where=served.model).name
        self._engine = await asyncio.to_thread(start_engine, served, model, self._dtype)

    async def __serve_build_asgi_app__(self) -> FrontDoor:
        return await plainly(self._build())

    async def _build(self) -> FrontDoor:
        served, engine = self._served, self._engine
        app = await server_app(engine, self._arguments)
        app.router.add_route("/v1/models/{name:path}", one_model, methods=["GET"])
        handle_failures(app, engine)
        config = engine.model_config
        reader = Reader(served.limits, config.max_model_len, config.get_vocab_size(), rendering(engine), tools=bool(self._tools))
        trials = asyncio.Semaphore(TRIALS)

        async def check(path: str, body: bytes) -> None:
            for kind, spec in reader.check(path, body):
                async with trials:
                    await asyncio.to_thread(trial.check, kind, json.dumps(spec))

        says = {SERVED: served.fingerprint, DTYPE: self._dtype}
        keys = KeyRing(served.key_digest, served.keys_uri) if served.key_digest else None
        entry = Entry(keys, says, served.limits.body_bytes, check, is_dead=lambda: engine.errored)
        if served.audit and served.audit_folder:
            self._log = AuditLog(served.audit_folder, served.audit)
        if self._guards is not None:
            entry = entry._replace(admit=self._admit)
        if self._guards is not None or self._log is not None:
            entry = entry._replace(done=self._done, stage_digest=served.stage_digest)
        return FrontDoor(app, entry)

    async def _done(self, done: Done, model: str, body: bytes) -> None:
        if self._guards is not None:
            # not waited for: the next request is counted after it, for one process counts both
            self._guards.finish.remote(done.visit, done.tokens)
        if self._log is not None:
            await asyncio.to_thread(self._log.write, done, model, body)

    async def _admit(self, visit: Visit) -> Admission:
        from ray.exceptions import RayError
        from ray.serve.exceptions import RayServeException

        try:
            return await self._guards.admit.remote(visit)
        except (RayError, RayServeException):
            # nobody is admitted uncounted while Serve starts the guards' process again
            return Admission(unguarded())

    async def check_health(self) -> None:
        """Raises RuntimeError when the engine core is dead; Serve then replaces the replica."""
        await plainly(self._engine.check_health())


def start_engine(served: Served, model: str, dtype: str) -> Any:
    """A ready AsyncLLM. Blocks for as long as the engine core needs to start."""
    return build_engine(
        model,
        dtype=dtype,
        max_len=served.max_len,
        gpu=served.gpu,
        memory_share=served.memory_share,
        # it may die of a request; the replica answers those that wait, and Serve replaces it
        own_process=True,
        served_model_name=[served.model_name],
        max_logprobs=served.limits.num_logprobs,
        # xgrammar, the default, compiles a schema whole before the first token: minutes for some, in the one thread for all.
        # llguidance reads it as it goes and bounds its own work. White space between tokens is where small models get lost
        structured_outputs_config={"backend": "guidance", "disable_any_whitespace": True},
        generation_config=with_ends(model),
    )


def tools_of(model: str) -> str:
    """vLLM's parser of the calls that the chat template of `model` writes; "" where it has no tools."""
    return family_of(load_tokenizer(model), [{"type": "function", "function": {"name": "x"}}])


def with_ends(model: str) -> str:
    """Where vLLM finds the generation config of `model`: "auto", which is beside it, or a folder with one that also names the
    end of a turn, for a checkpoint whose own leaves it out: its answers would run on to the limit."""
    folder = Path(model)
    if not folder.is_dir():
        return "auto"
    config = json.loads((folder / GENERATION).read_text()) if (folder / GENERATION).is_file() else {}
    said = config.get("eos_token_id")
    ends = end_tokens(folder, load_tokenizer(model))
    if set(ends) == {*(said if isinstance(said, list) else [said])}:
        return "auto"
    at = tempfile.mkdtemp(prefix="raylm-generation-")
    (Path(at) / GENERATION).write_text(json.dumps({**config, "eos_token_id": ends}))
    return at


def rendering(engine: Any) -> Any:
    """The chat template as a function of (messages, further arguments), "" where it cannot render; None without a template."""
    from jinja2 import TemplateError

    tokenizer = engine.get_tokenizer()
    if not getattr(tokenizer, "chat_template", None):
        return None

    def render(messages: list[dict[str, Any]], extra: dict[str, Any]) -> str:
        known = {name: value for name, value in extra.items() if name not in ("tokenize", "chat_template", "conversation")}
        try:
            return str(tokenizer.apply_chat_template(messages, tokenize=False, **known))
        except (TemplateError, TypeError, ValueError, KeyError, AttributeError):
            # vLLM says what is wrong with it
            return ""

    return render


def handle_failures(app: Any, engine: Any) -> None:
    """Handlers for what goes wrong behind the door. vLLM's own expect its own HTTP server around the app."""
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import Response

    async def unread(_: Any, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        if isinstance(first, dict):
            parts = parameter_of(first.get("loc", ())).removeprefix("body").split(".")
            param = ".".join(part for part in parts if part.isdigit() or part.islower())
            message = f"`{param}`: {first.get('msg')}." if param else f"{first.get('msg')}."
            refusal = bad_request(message, param or None).refusal
        else:
            refusal = bad_request(f"{first}.").refusal
        return Response(envelope(refusal), 400, media_type="application/json")

    async def failing(_: Any, error: Exception) -> Response:
        if engine.errored:
            refusal = restarting()
        elif is_of_request(error):
            # the engine lives: what it could not take is in the request
            cause = error.__cause__
            taken = isinstance(cause, (ValueError, TypeError, OverflowError))
            refusal = bad_request(f"The engine cannot take this request: {cause}.").refusal if taken else failed()
        else:
            refusal = foreign(*error_response(error))
        return Response(envelope(refusal), refusal.status, media_type="application/json")

    app.add_exception_handler(RequestValidationError, unread)
    app.add_exception_handler(base_error(), failing)
    # it is built already
    app.middleware_stack = app.build_middleware_stack()


async def one_model(request: Any) -> Any:
    """GET /v1/models/{name}, which OpenAI's clients know and vLLM lacks."""
    from fastapi.responses import JSONResponse

    name = request.path_params["name"]
    listed = await request.app.state.openai_serving_models.show_available_models()
    for model in listed.data:
        if model.id == name:
            return JSONResponse(model.model_dump())
    error = {"message": f"The model `{name}` does not exist.", "param": "model", "code": "model_not_found"}
    return JSONResponse({"error": error}, status_code=404)


def application(served: Served, cfg: Serve) -> Any:
    """The Serve application that `serve.run` deploys."""
    from ray import serve

    replicas = cfg.replicas
    # of requests that pass Serve's handles; `replicas.policy` is of replicas that tell their load
    scaling = {
        "min_replicas": replicas.min,
        "max_replicas": replicas.max,
        "target_ongoing_requests": 16,
        "upscale_delay_s": replicas.upscale_delay_s,
        "downscale_delay_s": replicas.downscale_delay_s,
    }
    deployment = serve.deployment(
        serve.ingress()(Replica),
        name=NAME,
        autoscaling_config=scaling,
        max_ongoing_requests=replicas.most_ongoing,
        ray_actor_options={"num_cpus": cfg.workers.cpus, "num_gpus": cfg.workers.gpus},
        # a dead engine is noticed after three checks; a busy one answers them from its event loop
        health_check_period_s=HEALTH_PERIOD_S,
        health_check_timeout_s=30,
        graceful_shutdown_timeout_s=30,
        # a start that failed for a reason fails again
        max_constructor_retry_count=1,
    )
    if not cfg.guards:
        return deployment.bind(served)
    # one process for all replicas: a limit counts what the whole endpoint is sent
    guards = serve.deployment(Guards, name="guards", num_replicas=1, max_ongoing_requests=1000, ray_actor_options={"num_cpus": 0})
    return deployment.bind(served, guards.bind(list(cfg.guards), served.counted_uri))
