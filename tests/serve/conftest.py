"""One tiny engine with the app of a replica around it, for all tests of what that app answers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.serve.in_process import Running, running, write_checkpoint


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """What answers."""
    with running(write_checkpoint(tmp_path_factory.mktemp("tiny") / "model")) as made:
        yield made
