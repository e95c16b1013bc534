"""How any process of the cluster reaches Control."""

from __future__ import annotations

from typing import Any

CONTROL = "control"
"""Name of its deployment."""


class Reach:
    """Control's methods from any process of the cluster: `await reach.beat.remote(...)`. Picklable."""

    def __init__(self, application: str) -> None:
        self.application = application

    def __getattr__(self, method: str) -> Any:
        if method.startswith("_") or method == "application":
            raise AttributeError(method)
        from ray import serve

        try:
            return getattr(serve.get_deployment_handle(CONTROL, self.application), method)
        except KeyError:
            raise RuntimeError(f"the application {self.application} has not been deployed") from None
