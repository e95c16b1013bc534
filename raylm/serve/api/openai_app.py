"""vLLM's HTTP app as this endpoint serves it: what may be asked is read first, models are listed without paths, failures are told
in words."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from raylm.inference.reasoning_families import reasoning_family_of
from raylm.inference.tool_families import family_of
from raylm.inference.vllm_private import base_error, error_response, is_of_request, parameter_of, server_app, server_arguments
from raylm.model.load import load_tokenizer
from raylm.serve.api import trial
from raylm.serve.api.dialogue import Render
from raylm.serve.api.reasoning import ReasoningContent
from raylm.serve.api.requests import Reader
from raylm.serve.api.tasks import TEXT
from raylm.serve.config import Limits
from raylm.serve.engine.inner import App
from raylm.serve.envelope import Refusal, bad_request, envelope, failed, foreign, restarting

# schemas that are tried at once; each has a process for it
TRIALS = 4


class Families(NamedTuple):
    """vLLM's parsers of what the model's chat template writes; "" where it writes none."""

    tools: str = ""
    reasoning: str = ""

    @classmethod
    def of(cls, model: str, task: str = TEXT) -> Families:
        """Of the model in the folder, or of the hub name, `model`."""
        if task != TEXT:
            return cls()
        tokenizer = load_tokenizer(model)
        return cls(family_of(tokenizer, [{"type": "function", "function": {"name": "x"}}]), reasoning_family_of(tokenizer))

    def arguments(self, model_name: str) -> Any:
        """Of vLLM's HTTP server. Imports it, which is slow."""
        return server_arguments(model_name, self.tools, self.reasoning)


class ServingApp(NamedTuple):
    """What stands behind a door."""

    app: App
    inner: Any
    """vLLM's own application below it."""
    check: Callable[[str, bytes], Awaitable[None]]
    """Reads path and body of a request; raises Refused."""


async def serving_app(
    engine: Any,
    arguments: Any,
    families: Families,
    limits: Limits,
    models: Callable[[], list[dict[str, Any]]],
    task: str = TEXT,
) -> ServingApp:
    """vLLM's app around an AsyncLLM, and the check that stands before it.

    Args:
        arguments: see `Families.arguments`.
        models: what /v1/models lists, see `raylm.serve.api.models`.
    """
    inner = await server_app(engine, arguments)
    list_models(inner, models)
    handle_failures(inner, engine)
    config, render = engine.model_config, rendering(engine) if task == TEXT else None
    has_tools, reasons = bool(families.tools), bool(families.reasoning)
    reader = Reader(limits, config.max_model_len, config.get_vocab_size(), render, has_tools, reasons, task)
    trials = asyncio.Semaphore(TRIALS)

    async def check(path: str, body: bytes) -> None:
        for kind, spec in reader.check(path, body):
            async with trials:
                await asyncio.to_thread(trial.check, kind, json.dumps(spec))

    return ServingApp(ReasoningContent(inner) if reasons else inner, inner, check)


def rendering(engine: Any) -> Render | None:
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


def list_models(app: Any, models: Callable[[], list[dict[str, Any]]]) -> None:
    """Answer /v1/models, and /v1/models/{name} which vLLM lacks, in place of vLLM's route: that shows where weights lie."""
    from fastapi.responses import JSONResponse, Response

    async def listed(_: Any) -> Response:
        return JSONResponse({"object": "list", "data": models()})

    async def one(request: Any) -> Response:
        name = request.path_params["name"]
        found = next((each for each in models() if each["id"] == name), None)
        if found is not None:
            return JSONResponse(found)
        refusal = Refusal(404, f"The model `{name}` does not exist.", "model_not_found", "model")
        return Response(envelope(refusal), 404, media_type="application/json")

    app.router.routes[:] = [route for route in app.router.routes if getattr(route, "path", "") != "/v1/models"]
    app.router.add_route("/v1/models", listed, methods=["GET"])
    app.router.add_route("/v1/models/{name:path}", one, methods=["GET"])


def handle_failures(app: Any, engine: Any) -> None:
    """Handlers for what goes wrong behind the door. vLLM's own expect its own HTTP server around the app."""
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import Response

    async def unread(_: Any, error: RequestValidationError) -> Response:
        return answer(unread_refusal(error))

    async def failing(_: Any, error: Exception) -> Response:
        return answer(failure(error, engine.errored))

    def answer(refusal: Refusal) -> Response:
        return Response(envelope(refusal), refusal.status, media_type="application/json")

    app.add_exception_handler(RequestValidationError, unread)
    app.add_exception_handler(base_error(), failing)
    # it is built already
    app.middleware_stack = app.build_middleware_stack()


def unread_refusal(error: Any) -> Refusal:
    """What FastAPI could not read of a body."""
    first = error.errors()[0]
    if not isinstance(first, dict):
        return bad_request(f"{first}.").refusal
    parts = parameter_of(first.get("loc", ())).removeprefix("body").split(".")
    param = ".".join(part for part in parts if part.isdigit() or part.islower())
    return bad_request(f"`{param}`: {first.get('msg')}." if param else f"{first.get('msg')}.", param or None).refusal


def failure(error: Exception, is_dead: bool) -> Refusal:
    """What is said of an error of vLLM's."""
    if is_dead:
        return restarting()
    if not is_of_request(error):
        return foreign(*error_response(error))
    # the engine lives: what it could not take is in the request
    cause = error.__cause__
    taken = isinstance(cause, (ValueError, TypeError, OverflowError))
    return bad_request(f"The engine cannot take this request: {cause}.").refusal if taken else failed()
