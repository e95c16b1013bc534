"""What a gateway answers itself, from the directory: /v1/models, /health, /metrics."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp

from raylm.serve.api.models import card, listed
from raylm.serve.directory import Address, Replica
from raylm.serve.engine.inner import INNER
from raylm.serve.envelope import Refusal, Refused
from raylm.serve.gateway.dispatch import Dispatch
from raylm.serve.gateway.metrics import Counters, merged
from raylm.serve.gateway.settings import GatewaySettings, ModelFacts
from raylm.serve.keys import KeyRecord

METRICS_S = 2.0
"""Seconds that a replica has for its page of metrics; one that takes longer is left out."""


class Pages:
    """Of one gateway."""

    def __init__(self, settings: GatewaySettings, dispatch: Dispatch, counters: Counters) -> None:
        self._settings, self._dispatch, self._counters = settings, dispatch, counters

    def models(self, key: KeyRecord) -> dict[str, Any]:
        """The list of models that a key may ask, adapters too."""
        return {"object": "list", "data": [each for name, each in self._cards().items() if not key.models or name in key.models]}

    def model(self, name: str, key: KeyRecord) -> dict[str, Any]:
        """One of them. Raises Refused where there is none."""
        found = self._cards().get(name)
        if found is None or (key.models and name not in key.models):
            raise Refused(self.no_model(name, key))
        return found

    def no_model(self, name: str, key: KeyRecord) -> Refusal:
        """What is said of a model that is not here, or not for this key: which is told of no others than its own."""
        there = ", ".join(f"`{each}`" for each in self._dispatch.models() if not key.models or each in key.models) or "none"
        return Refusal(404, f"The model `{name[:100]}` does not exist; there is {there}.", "model_not_found", "model")

    def health(self, draining: bool) -> tuple[int, dict[str, Any]]:
        """Whether requests are answered: 200 where every model has a replica that is ready, or sleeps and is started by the
        first request; 503 else."""
        models = {model.name: self._health(model) for model in self._settings.models}
        good = not draining and all(each["ready"] or each.get("asleep") for each in models.values())
        status = "draining" if draining else "ready" if good else "not ready"
        return (200 if good else 503), {"status": status, "models": models}

    async def metrics(self, session: aiohttp.ClientSession) -> str:
        """This gateway's counters, the replicas' loads, and the replicas' own pages."""
        rows = self._dispatch.view.replicas
        own = self._counters.page(self._dispatch.held(), [(row, self._dispatch.under_way(row.address.replica)) for row in rows])
        asked = [row.address for row in rows if not self._dispatch.suspected(row.address)]
        pages = await asyncio.gather(*(_page(session, address) for address in asked))
        return own + merged({address.replica: page for address, page in zip(asked, pages, strict=True) if page})

    def _cards(self) -> dict[str, dict[str, Any]]:
        """By name; a model that has no replica now is there too."""
        asleep = {facts.name: card(facts.name, facts.max_len, facts.lineage) for facts in self._settings.models}
        return asleep | {each["id"]: each for each in listed(self._dispatch.view)}

    def _health(self, model: ModelFacts) -> dict[str, Any]:
        rows = self._rows(model)
        engines = [row for row in rows if row.state in ("ready", "spare", "draining")]
        ready = [row for row in rows if row.state == "ready" and not self._dispatch.suspected(row.address)]
        told = {"live": len(rows) > 0, "engine": len(engines) > 0, "ready": len(ready) > 0}
        served = {row.address.fingerprint: row.address.dtype for row in ready}
        return {**told, "replicas": len(ready), "served": served, **({"asleep": True} if model.least == 0 and not rows else {})}

    def _rows(self, model: ModelFacts) -> list[Replica]:
        return [row for row in self._dispatch.view.replicas if row.address.model == model.name]


async def _page(session: aiohttp.ClientSession, address: Address) -> str:
    """A replica's page of metrics; "" where it gives none in time."""
    host = f"[{address.host}]" if ":" in address.host else address.host
    try:
        async with asyncio.timeout(METRICS_S):
            async with session.get(f"http://{host}:{address.port}/metrics", headers={INNER: address.secret}) as answer:
                return await answer.text() if answer.status == 200 else ""
    except (aiohttp.ClientError, OSError, TimeoutError, UnicodeDecodeError):
        return ""
