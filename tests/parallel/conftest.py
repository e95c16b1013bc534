"""The results of one run of two gloo ranks: imports are paid once for all tests of this folder."""

from __future__ import annotations

import socket
from typing import Any

import pytest


@pytest.fixture(scope="session")
def two_ranks(tmp_path_factory) -> dict[str, Any]:
    import torch

    from tests.parallel.two_ranks import gather

    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(gather, args=(str(folder), port), nprocs=2)
    return {"folder": folder, **torch.load(folder / "found.pt", weights_only=False)}
