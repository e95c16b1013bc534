"""Takes a checkpoint's address, leaves a Ray Serve application: replicas that each run vLLM behind the front door.

    client -> Serve proxy -> replica: FrontDoor -> vLLM's OpenAI app -> AsyncLLM -> engine core (a process of its own)

Serve hands the replica the raw ASGI messages, so streaming, cancelling and error shapes are vLLM's own.
"""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

from raylm.model.engine_dtype import engine_dtype, network_of
from raylm.model.engine_options import engine_options, set_environment
from raylm.model.load import on_this_machine
from raylm.serve.auth import DTYPE, SERVED, FrontDoor
from raylm.serve.config import Serve

NAME = "raylm"
HEALTH_PERIOD_S = 1.0


class Served(NamedTuple):
    """What a replica needs to know. No secret: of the key only its digest. `dtype` is what the job asks for."""

    model: str
    fingerprint: str
    model_name: str
    key_digest: str | None
    dtype: str
    max_len: int | None
    gpu: bool
    memory_share: float


class Replica:
    """One engine and its HTTP app. Ray Serve calls `__serve_build_asgi_app__` once the constructor is done."""

    async def __init__(self, served: Served) -> None:
        set_environment(served.gpu)
        self._served = served
        model = on_this_machine(served.model)
        # one after the other: setuptools, which vLLM imports, breaks when two threads import it at once; and in a thread,
        # so that Serve can ask this process how it is
        self._arguments = await asyncio.to_thread(http_arguments, served, model)
        # here and not on the driver: replicas may stand on machines of several makes
        self._dtype = engine_dtype(network_of(model), served.dtype, served.gpu, where=served.model).name
        self._engine = await asyncio.to_thread(start_engine, served, model, self._dtype)

    async def __serve_build_asgi_app__(self) -> FrontDoor:
        from vllm.entrypoints.launchers.api_server.app_state import init_app_state
        from vllm.entrypoints.launchers.app import build_app

        tasks = await self._engine.get_supported_tasks()
        app = build_app(self._arguments, tasks, self._engine.model_config)
        app.router.add_route("/v1/models/{name:path}", one_model, methods=["GET"])
        await init_app_state(self._engine, app.state, self._arguments, tasks)
        return FrontDoor(app, self._served.key_digest, {SERVED: self._served.fingerprint, DTYPE: self._dtype})

    async def check_health(self) -> None:
        """Raises when the engine core is dead; Serve then replaces the replica."""
        await self._engine.check_health()


def start_engine(served: Served, model: str, dtype: str) -> Any:
    """A ready AsyncLLM. Blocks for as long as the engine core needs to start."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    options: dict[str, Any] = {"dtype": dtype, "max_model_len": served.max_len}
    options |= engine_options(served.gpu, served.memory_share)
    return AsyncLLM.from_engine_args(AsyncEngineArgs(model=model, served_model_name=[served.model_name], **options))


def http_arguments(served: Served, model: str) -> Any:
    """vLLM's server arguments with their defaults, less what a keyed endpoint must not have (CORS for everybody)."""
    import vllm.entrypoints.generate.api_router
    import vllm.entrypoints.launchers.api_server.app_state
    import vllm.entrypoints.launchers.app  # noqa: F401
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    arguments: Any = make_arg_parser(FlexibleArgumentParser()).parse_args([])
    arguments.model, arguments.served_model_name = model, [served.model_name]
    arguments.allowed_origins, arguments.disable_fastapi_docs = [], True
    return arguments


async def one_model(request: Any) -> Any:
    """GET /v1/models/{name}, which OpenAI's clients know and vLLM lacks."""
    from fastapi.responses import JSONResponse

    name = request.path_params["name"]
    listed = await request.app.state.openai_serving_models.show_available_models()
    for model in listed.data:
        if model.id == name:
            return JSONResponse(model.model_dump())
    error = {"message": f"The model `{name}` does not exist.", "type": "NotFoundError", "param": "model", "code": 404}
    return JSONResponse({"error": error}, status_code=404)


def application(served: Served, cfg: Serve) -> Any:
    """The Serve application that `serve.run` deploys."""
    from ray import serve

    replicas = cfg.replicas
    scaling = {
        "min_replicas": replicas.min,
        "max_replicas": replicas.max,
        "target_ongoing_requests": replicas.target_ongoing,
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
    return deployment.bind(served)
