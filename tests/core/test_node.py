"""Failed starts of Ray: which are tried again, and the error at the end."""

from __future__ import annotations

import pytest

from raylm.core import node
from raylm.core.errors import PlacementError

# Ray's words, of ray/_private/node.py
SLOW = "The current node timed out during startup. This could happen because some of the raylet failed to startup."


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr(node, "PAUSE_S", 0.0)


def starts(*causes: Exception | None):
    left, tidied = list(causes), []

    def start() -> None:
        if cause := left.pop(0):
            raise cause

    return start, lambda: tidied.append(len(left)), tidied


def test_a_start_that_was_too_slow_is_tried_again_with_a_word(capsys):
    start, tidy, tidied = starts(Exception(SLOW), RuntimeError("Failed to start GCS. Last 0 lines"), None)
    node.again(start, tidy)
    assert tidied == [2, 1]
    said = capsys.readouterr().err
    assert "did not start in time (The current node timed out during startup" in said and "busy? try 2 of 3" in said
    assert "try 3 of 3" in said


def test_the_tries_are_counted_and_the_cause_is_kept():
    start, tidy, _ = starts(*[Exception(SLOW) for _ in range(node.TRIES)])
    with pytest.raises(PlacementError, match=r"did not start in 3 tries: The current node timed out") as caught:
        node.again(start, tidy)
    assert SLOW in str(caught.value.__cause__)


@pytest.mark.parametrize("other", [ValueError("num_cpus"), KeyboardInterrupt(), PermissionError("/tmp/ray")])
def test_anything_else_is_raised_at_once(other):
    start, tidy, tidied = starts(other, None)
    with pytest.raises(type(other)):
        node.again(start, tidy)
    assert not tidied


def test_logs_are_quoted_by_their_errors(tmp_path):
    (tmp_path / "raylet.out").write_text(
        "[I] begins\n[2026-11-29 17:00:00 C 12] Timed out waiting for file dashboard_agent\n[I] ends\n"
    )
    (tmp_path / "gcs_server.out").write_text("[I] begins\n[I] ends\n")
    assert node.last_words(str(tmp_path)).splitlines() == [
        "    raylet.out: [2026-11-29 17:00:00 C 12] Timed out waiting for file dashboard_agent",
        "    gcs_server.out: [I] ends",
    ]
    assert node.last_words("") == "    no log was written"
