"""From a command line to the Control of an endpoint that serves: a note beside the endpoint says in which cluster it is.

`raylm run` --> {job}/.control/{stage}.json <-- `raylm adapters`, `raylm update`
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from typing import Any

from raylm.core.artifact import Endpoint, open_artifact
from raylm.core.errors import ArtifactError, PlanError, RaylmError
from raylm.core.storage import Folder
from raylm.serve.reach import CONTROL

NOTES = ".control"
CONTROL_S = 30.0
"""Seconds that Control may take for an answer."""
Call = Callable[..., Any]
"""(method of Control, its arguments) -> what it returns."""


def note(out: Folder, application: str) -> None:
    """Write down where the endpoint in `out` is served: by this process's cluster, as the Serve application named."""
    import ray

    folder, name = _place(out)
    told = {"cluster": ray.get_runtime_context().gcs_address, "application": application, "pid": os.getpid()}
    folder.make().write_json(name, told)


def endpoint_of(uri: str) -> Endpoint:
    """The endpoint in the folder `uri`. Raises ArtifactError where it is none."""
    made = open_artifact(Folder(uri))
    if not isinstance(made, Endpoint):
        raise ArtifactError(f"this is a {made.kind}, no Endpoint", where=made.uri, next="name a serve stage's folder")
    return made


@contextlib.contextmanager
def control(endpoint: Endpoint) -> Iterator[Call]:
    """Calls of the endpoint's Control, from a process that is no part of its cluster.

    Raises:
        PlanError: it does not serve, or not from where this can reach it.
        RaylmError: what Control says of a call.
    """
    folder, name = _place(endpoint.folder)
    if not folder.exists(name):
        raise PlanError("this endpoint has never been served from here", where=endpoint.uri, next="raylm run its job")
    told = folder.read_json(name)
    import ray
    from ray.exceptions import RayError

    gone = PlanError(f"nobody serves this endpoint at {told['cluster']}", where=endpoint.uri, next="raylm run its job")
    own = not ray.is_initialized()
    if own:
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        try:
            ray.init(address=told["cluster"], log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError, OSError) as cause:
            raise gone from cause
    try:
        yield calls(told["application"])
    except RayError as cause:
        raise gone from cause
    finally:
        if own:
            ray.shutdown()


def calls(application: str) -> Call:
    """Calls of the Control of a Serve application, from a process of its cluster."""
    return lambda method, *arguments: _called(application, method, arguments)


def _called(application: str, method: str, arguments: tuple[Any, ...]) -> Any:
    from ray import serve
    from ray.exceptions import RayTaskError
    from ray.serve.exceptions import RayServeException

    try:
        handle = serve.get_deployment_handle(CONTROL, application)
        return getattr(handle, method).remote(*arguments).result(timeout_s=CONTROL_S)
    except RayTaskError as failed:
        # what Control refuses is said as it said it
        if isinstance(failed.cause, RaylmError):
            raise failed.cause from None
        raise
    except (RayServeException, KeyError, TimeoutError) as cause:
        raise PlanError(f"the endpoint's Control does not answer: {cause}", next="is its `raylm run` still there?") from cause


def _place(endpoint: Folder) -> tuple[Folder, str]:
    job, _, stage = endpoint.uri.rstrip("/").rpartition("/")
    return Folder(job) / NOTES, f"{stage}.json"
