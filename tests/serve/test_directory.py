"""The table of replicas: who may be asked, and when a silent one no longer is."""

from __future__ import annotations

from raylm.serve.directory import FORGET_S, SILENT_S, AdapterOrder, Address, Directory, Load, Orders, Spares


def address(name: str, model: str = "chat", **changes) -> Address:
    return Address(**{"replica": name, "model": model, "host": "127.0.0.1", "port": 1, "secret": "s3cret", **changes})


def test_a_replica_is_asked_from_its_registration_until_it_says_otherwise():
    table = Directory()
    table.register(address("a"), "ready", 0.0)
    table.register(address("b", adapters=("polite",)), "spare", 0.0)
    assert [each.address.replica for each in table.view().ready("chat")] == ["a"]
    table.turn("b", "ready", 1.0)
    table.turn("a", "unready", 1.0, "the engine died")
    view = table.view()
    assert [each.address.replica for each in view.ready("polite")] == ["b"]
    assert next(each.why for each in view.replicas if each.address.replica == "a") == "the engine died"
    assert sorted(view.models()) == ["chat", "polite"]
    table.leave("b")
    assert table.view().ready("chat") == []


def test_a_silent_replica_is_unready_and_comes_back_with_its_next_beat():
    table = Directory()
    table.register(address("a"), "ready", 0.0)
    table.register(address("b"), "ready", 0.0)
    table.turn("b", "unready", 0.0, "the engine died")
    table.expire(SILENT_S + 0.1)
    assert table.view().ready("chat") == []
    table.beat("a", Load(running=1), SILENT_S + 0.2)
    # one that said itself that it is not ready is not made ready by a beat
    table.beat("b", Load(), SILENT_S + 0.2)
    (ready,) = table.view().ready("chat")
    assert (ready.address.replica, ready.load.running) == ("a", 1)
    table.expire(SILENT_S + 0.2 + FORGET_S + 0.1)
    assert table.view().replicas == ()
    assert table.beat("a", Load(), 100.0) is None


def test_the_version_grows_with_changes_and_not_with_loads():
    table = Directory({"chat": Orders(spare=False)})
    table.register(address("a"), "ready", 0.0)
    before = table.version
    assert table.beat("a", Load(running=3), 0.5) == Orders()
    assert table.version == before
    table.order("chat", Orders((AdapterOrder("polite", "somewhere"),)))
    assert table.beat("a", Load(), 1.0).adapters[0].name == "polite"
    table.turn("a", "draining", 1.0)
    table.turn("a", "draining", 1.1)
    assert table.version == before + 1


def test_an_address_that_is_printed_shows_no_secret():
    assert "s3cret" not in repr(address("a"))
    assert "s3cret" not in f"{address('a')}"


def test_a_spare_takes_the_place_of_a_lost_replica_at_once():
    table = Directory(spares={"chat": Spares(count=1, least=2)})
    for name in "abcd":
        table.register(address(name), "ready", 0.0)
    states = {each.address.replica: each.state for each in table.view().replicas}
    # two answer, the third waits; what comes after it answers: somebody wanted more
    assert states == {"a": "ready", "b": "ready", "c": "spare", "d": "ready"}
    table.turn("a", "unready", 1.0, "the engine died")
    assert [each.address.replica for each in table.view().ready("chat")] == ["b", "c", "d"]
    # the one that comes back is the spare now
    table.turn("a", "ready", 2.0)
    assert [each.address.replica for each in table.view().ready("chat")] == ["b", "c", "d"]
    table.leave("b")
    assert [each.address.replica for each in table.view().ready("chat")] == ["a", "c", "d"]
    # other weights make nobody a spare
    table.register(address("c", fingerprint="new"), "ready", 3.0)
    assert {each.address.fingerprint for each in table.view().ready("chat")} == {"", "new"}


def test_a_spare_that_falls_silent_is_no_spare():
    table = Directory(spares={"chat": Spares(count=1)})
    table.register(address("a"), "ready", 0.0)
    table.register(address("b"), "ready", 0.0)
    table.beat("a", Load(), 2.0)
    table.expire(SILENT_S + 0.5)
    table.turn("a", "unready", 2.6, "the engine died")
    assert table.view().ready("chat") == []
    table.beat("b", Load(), 3.0)
    assert [each.address.replica for each in table.view().ready("chat")] == ["b"]
