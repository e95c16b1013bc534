"""Tables of a serve stage: what is refused and what is no part of identity."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from raylm.core.config import ENDPOINT, references
from raylm.core.room import peak
from raylm.serve.config import Serve, is_loopback
from raylm.serve.served_model import Replicas, ServedModel


def test_an_open_door_to_the_world_is_refused():
    with pytest.raises(ValidationError, match="would let everybody in"):
        Serve(model="sft", host="0.0.0.0", insecure=True)
    assert Serve(model="sft", insecure=True).insecure


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("10.0.0.1", False),
        ("example.org", False),
    ],
)
def test_loopback(host, loopback):
    assert is_loopback(host) is loopback


def test_where_it_runs_is_no_part_of_identity():
    plain = Serve(model="sft")
    moved = Serve(model="sft", port=9000, host="0.0.0.0", replicas=Replicas(max=8), prompts=["hi"], answer_tokens=3)
    assert plain.fingerprint() == moved.fingerprint()
    assert plain.fingerprint() != Serve(model="sft", max_len=64).fingerprint()


def test_replicas_are_ordered():
    with pytest.raises(ValidationError, match="min = 3 is above max = 2"):
        Replicas(min=3, max=2)


def test_it_makes_an_endpoint_and_counts_its_cores():
    cfg = Serve(model="sft", replicas=Replicas(max=4))
    assert (cfg.makes(), peak(cfg.roles())["CPU"]) == (ENDPOINT, 4.0)


def test_several_models_have_names_and_engines_of_their_own():
    more = ServedModel(model="tiny", model_name="small", replicas=Replicas(max=2, spare=1))
    cfg = Serve(model="sft", more=[more], replicas=Replicas(max=4))
    assert [served.model_name for served in cfg.models] == ["raylm", "small"]
    assert {name: role.count for name, role in cfg.roles().items()} == {"replicas": 4, "replicas_small": 3}
    with pytest.raises(ValidationError, match="two models are called 'raylm'"):
        Serve(model="sft", more=[ServedModel(model="tiny")])


@pytest.mark.parametrize("name", ["../x", "a//b", "/etc/passwd", "a b", "", "a\r\nx: y", "x" * 97])
def test_a_name_that_reads_as_a_path_is_refused(name):
    with pytest.raises(ValidationError, match="is no model name"):
        Serve(model="sft", model_name=name)


def test_an_engine_is_asked_for_what_its_machine_can_do():
    for engine, why in (
        ({"tensor_parallel": 2}, "tensor_parallel = 2 needs gpus = 2, not 0"),
        ({"kv_cache_dtype": "nvfp4"}, "kv_cache_dtype = 'nvfp4' needs a GPU"),
    ):
        with pytest.raises(ValueError, match=why):
            Serve(model="./m", more=[{"model": "./n", "model_name": "n", "engine": engine}])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="task = 'embed' draws none"):
        Serve(model="./m", task="embed", engine={"speculation": {"kind": "ngram"}})  # type: ignore[arg-type]
    drafted = Serve(model="./m", engine={"speculation": {"kind": "draft_model", "model": "student"}})  # type: ignore[arg-type]
    assert [(ref.path, ref.value) for ref in references(drafted)][-1] == (("engine", "speculation", "model"), "student")
