"""What vLLM's trainer side is told, and when buckets go instead; the GPUs' part has its tests beside the cards."""

from __future__ import annotations

import pickle
from types import SimpleNamespace

import pytest
import torch

from raylm.inference import gpu_transfer
from raylm.inference.calls import GeneratorLost
from raylm.inference.gpu_transfer import Client, GpuSender, tensor_bytes


class Calls:
    """Broadcast's calls, written down."""

    def __init__(self, lost=None):
        self.asked, self.lost = [], lost or {}

    def ask(self, method, args):
        self.asked.append((method, args))

    def wait(self, among=None):
        return {}


def test_each_generator_is_told_the_rank_of_its_first_worker():
    client = Client([2, 1, 4])
    client.calls = calls = Calls()  # type: ignore[assignment]
    client.init_weight_transfer_engine({"rank_offset": 1, "world_size": 8})
    ((method, told),) = calls.asked
    assert method == "join_transfer" and [told[at][0]["rank_offset"] for at in range(3)] == [1, 3, 4]
    client.init_weight_transfer_engine({"packed": True})
    assert calls.asked[1][1][2] == ({"packed": True},)
    client.update_weights({"names": ["a"]})
    assert pickle.loads(calls.asked[2][1][1][0]) == {"names": ["a"]}


def test_a_transfer_without_one_of_them_ends():
    client = Client([1, 1])
    client.calls = Calls({1: "its process is dead"})  # type: ignore[assignment]
    with pytest.raises(GeneratorLost, match="generator 1 was lost in the middle of a transfer between GPUs: its process is dead"):
        client.start_weight_update()


def test_the_same_generators_again_go_without_buckets(monkeypatch):
    made = []

    class Trainer:
        def __init__(self, client, source, num_workers, size):
            made.append((source.described, num_workers, size))
            self.source = source

        def send_weights(self):
            self.sent = [name for name, _ in self.source.stream]

        def shutdown(self):
            made.append("shutdown")

    class Counting(Calls):
        def __init__(self, generators, deadline_s, tick):
            super().__init__()
            self.generators = generators

        def places(self, among=None):
            return [*range(len(self.generators))]

        def wait(self, among=None):
            return dict.fromkeys(self.places(), 2) if self.asked[-1][0] == "num_workers" else {}

    monkeypatch.setattr(gpu_transfer, "Broadcast", Counting)
    sender, went = GpuSender(Trainer, 1000), []
    sender._buckets = SimpleNamespace(  # type: ignore[assignment]
        send=lambda named, *_, **__: went.append([name for name, _ in named]) or gpu_transfer.Sent("0", {})
    )
    named = [("a", torch.zeros(10)), ("b", torch.zeros(30, 20, dtype=torch.bfloat16))]
    for generators in (["x", "y"], ["x", "y"], ["x", "y"], ["x", "z"], ["x", "z"]):
        sender.send(named, generators, 1, 1.0)
    assert went == [["a", "b"]] * 2
    described = [("a", torch.float32, (10,)), ("b", torch.bfloat16, (30, 20))]
    assert made[0] == (described, 4, 1200), "a bucket takes the largest tensor"
    assert made[1] == "shutdown" and made[2][1] == 4 and len(made) == 3
    assert sum(map(tensor_bytes, described)) == 1240
