"""Adapters are ordered at Control, and what replicas make of the order is waited for and said."""

from __future__ import annotations

from typing import Any

import pytest

from raylm.core.errors import ConfigError, StageError
from raylm.serve.adapter_commands import check_loaded, load, standing
from raylm.serve.api.models import FAILED
from raylm.serve.directory import AdapterOrder, Address, Replica, State, View

ORDER = AdapterOrder("french", "/adapters/french")


def replica(name: str, *adapters: str, state: State = "ready", **failed: str) -> Replica:
    return Replica(Address(name, "raylm", "h", 1, "s", adapters=adapters, lineage={FAILED: failed}), state)


class Told:
    """Control as far as it is asked here: each look at the replicas shows the next of `views`."""

    def __init__(self, *views: tuple[Replica, ...]) -> None:
        self.views, self.asked = list(views), list[Any]()

    def __call__(self, method: str, *arguments: Any) -> Any:
        self.asked.append((method, *arguments))
        if method == "view":
            return View(1, self.views.pop(0) if len(self.views) > 1 else self.views[0])
        return None


def test_it_is_there_when_every_replica_has_it():
    control = Told(
        (replica("a"), replica("b")), (replica("a", "french"), replica("b")), (replica("a", "french"), replica("b", "french"))
    )
    assert str(load(control, "raylm", ORDER)) == "on 2 of 2 replicas"
    assert control.asked[0] == ("load_adapter", "raylm", *ORDER) and len(control.asked) == 4


def test_one_that_a_replica_cannot_load_is_withdrawn():
    control = Told((replica("a", "french"), replica("b", french="has rank 128")))
    with pytest.raises(StageError, match="b: has rank 128"):
        load(control, "raylm", ORDER)
    assert control.asked[-1] == ("unload_adapter", "raylm", "french")
    slow = Told((replica("a"),))
    with pytest.raises(StageError, match="on 0 of 1 replicas"):
        load(slow, "raylm", ORDER, seconds=0)


def test_names_are_checked_before_anybody_is_asked():
    for name in ("../x", "a b", ""):
        control = Told((replica("a"),))
        with pytest.raises(ConfigError, match="no model name"):
            load(control, "raylm", AdapterOrder(name, "/x"))
        assert not control.asked


def test_other_models_and_replicas_that_do_not_answer_do_not_count():
    other = Replica(Address("c", "small", "h", 1, "s"), "ready")
    found = standing(ORDER, "raylm", (replica("a", "french"), replica("b", state="unready"), other))
    assert found.done and (found.have, found.replicas) == (1, 1)
    assert not standing(ORDER, "raylm", ()).done


def test_adapters_of_a_job_are_there_or_the_stage_fails():
    check_loaded(Told((replica("a"),), (replica("a", "french"),)), "raylm", [ORDER])
    # a model that sleeps
    check_loaded(Told(()), "raylm", [ORDER])
    with pytest.raises(StageError, match="has rank 128"):
        check_loaded(Told((replica("a", french="has rank 128"),)), "raylm", [ORDER])
