"""What a replica does with an order, without an engine."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace

from raylm.core.errors import StorageError
from raylm.serve.directory import Orders, WeightsOrder
from raylm.serve.engine import orders as orders_file
from raylm.serve.engine.orders import carry_out


def test_weights_are_fetched_beside_the_answers(monkeypatch):
    fetching, said = [], []

    def fetch(uri):
        fetching.append(threading.current_thread())
        raise StorageError("the bucket does not answer", where=uri)

    monkeypatch.setattr(orders_file, "on_this_machine", fetch)
    server = SimpleNamespace(fingerprint="a", model="m", adapters=None, link=SimpleNamespace(say=said.append))
    asyncio.run(carry_out(server, Orders(weights=WeightsOrder("s3://b/w", "b", in_place=True))))
    # an event loop that waits for a bucket answers nobody, and its replica is taken to hang
    assert fetching[0] is not threading.main_thread() and said[0].refused == "the bucket does not answer"
