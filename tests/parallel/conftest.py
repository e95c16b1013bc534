"""The results of one run of two gloo ranks: it is paid once for all tests of this folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.once import once


@pytest.fixture(scope="session")
def two_ranks(tmp_path_factory) -> dict[str, Any]:
    import torch

    from tests.parallel.on_ranks import on_ranks
    from tests.parallel.two_ranks import gather

    def make(folder: Path) -> None:
        torch.save(on_ranks(2, gather, str(folder), timeout_s=400.0)[0], folder / "found.pt")

    folder = once(tmp_path_factory, "two-ranks", make)
    return {"folder": folder, **torch.load(folder / "found.pt", weights_only=False)}
