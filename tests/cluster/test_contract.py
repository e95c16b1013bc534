"""What a machine is told of its place in a cluster, and the token that all of them need."""

from __future__ import annotations

import stat

import pytest

from raylm.cluster.contract import LOOPBACK, Place, Ports, own_address, place, token_file
from raylm.core.errors import ConfigError

TWO = {"RAYLM_NODE_RANK": "1", "RAYLM_NUM_NODES": "2", "RAYLM_HEAD_ADDRESS": "10.1.2.3"}


def test_a_machine_that_is_told_nothing_is_alone():
    assert place({}) == Place(0, 1, LOOPBACK)
    assert own_address(place({}), 6379) == LOOPBACK


@pytest.mark.parametrize(
    "variables",
    [
        TWO,
        {"SKYPILOT_NODE_RANK": "1", "SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_IPS": "10.1.2.3\n10.1.2.4"},
        {"SLURM_NODEID": "1", "SLURM_JOB_NUM_NODES": "2", "RAYLM_HEAD_ADDRESS": "10.1.2.3"},
    ],
)
def test_the_same_place_from_each_scheduler(variables):
    assert place(variables) == Place(1, 2, "10.1.2.3")


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"RAYLM_NODE_RANK": "2"}, "is no machine of 2"),
        ({"RAYLM_NODE_RANK": "first"}, "must be whole numbers"),
        ({"RAYLM_HEAD_ADDRESS": ""}, "none is told where the head is"),
    ],
)
def test_what_does_not_fit_together_is_refused(changed, told):
    with pytest.raises(ConfigError, match=told):
        place({**TWO, **changed})


def test_a_head_that_is_this_machines_loopback_is_refused_on_the_others():
    with pytest.raises(ConfigError, match="is this machine's loopback"):
        own_address(Place(1, 2, "127.0.0.1"), 6379)


def test_all_ports_differ_and_none_is_skypilots_own():
    ports = Ports.of()
    singles = set(ports[:-2])
    assert (ports.gcs, ports.dashboard, len(singles)) == (6379, 8265, len(ports) - 2)
    assert not singles & {6380, 8266, 52365}
    assert all(not ports.first_worker <= port <= ports.last_worker for port in singles)


def test_one_machine_makes_a_token_and_several_must_have_one(tmp_path):
    made = token_file({}, Place(0, 1, LOOPBACK), tmp_path / "auth")
    assert len(made.read_text()) == 64
    assert stat.S_IMODE(made.stat().st_mode) == 0o600
    with pytest.raises(ConfigError, match="machines of one cluster need one token"):
        token_file({}, Place(1, 2, "10.1.2.3"), tmp_path / "auth")
    given = token_file({"RAYLM_RAY_TOKEN": "abc"}, Place(1, 2, "10.1.2.3"), tmp_path / "auth")
    assert given.read_text() == "abc"
    given.chmod(0o644)
    with pytest.raises(ConfigError, match="others may read the token"):
        token_file({"RAY_AUTH_TOKEN_PATH": str(given)}, Place(1, 2, "10.1.2.3"), tmp_path / "auth")


def test_a_token_is_not_put_where_others_may_put_theirs(tmp_path):
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "own").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "own")
    for name in ("open", "link"):
        with pytest.raises(ConfigError, match="others may write where the token would lie"):
            token_file({}, place({}), tmp_path / name)
    assert token_file({}, place({}), tmp_path / "own").parent == tmp_path / "own"
