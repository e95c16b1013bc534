"""Takes random weights of 10 MB, 256 MB and 1 GB, leaves seconds until generators hold them, compared and copied into tensors of
their own, by transport: beside memcpy of the same bytes, and beside Ray's object store alone (no digest, no commit). Then the
memory that both sides take beside the weights of a checkpoint whose tensors have the sizes of a 7 B model."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from tests.inference.plain import Plain

SIZES = {"10 MB": 10, "256 MB": 256, "1 GB": 1024}
ROUNDS, TENSOR_MB, CHANGED, DEADLINE_S = 9, 8, 0.01, 120.0
HIDDEN, INNER, KEYS, VOCAB, LAYERS = 3584, 18_944, 512, 152_064, 2
"""Qwen2.5-7B, less layers: 2 GB of bfloat16 where that has 15."""


class Sink(Plain):
    """A generator whose engine copies what it is handed."""

    async def take_weights(self, bucket: Any, transfer: str) -> None:
        await self.intake.take(bucket, transfer)

    async def memory(self, fresh: bool = False) -> tuple[int, int]:
        return memory(fresh)

    async def room(self, shapes: dict[str, tuple[int, ...]]) -> None:
        """Tensors of bfloat16 for the weights that come, each of their bytes written."""
        import torch

        self.weights = {name: torch.ones(shape, dtype=torch.bfloat16) for name, shape in shapes.items()}

    async def plain_put(self, arrays: dict[str, Any]) -> None:
        """What Ray's object store brings, as it comes."""
        import torch

        for name, array in arrays.items():
            self.weights[name].copy_(torch.from_numpy(array))


def weights(size_mb: int) -> dict[str, Any]:
    import numpy as np

    rng = np.random.default_rng(size_mb)
    sizes = [min(TENSOR_MB, size_mb - at) << 18 for at in range(0, size_mb, TENSOR_MB)]
    return {f"layers.{at}.weight": rng.standard_normal(size, np.float32) for at, size in enumerate(sizes)}


def change(arrays: dict[str, Any], seed: int) -> None:
    """Change one value in a hundred, anywhere."""
    import numpy as np

    rng = np.random.default_rng(seed)
    for array in arrays.values():
        array[rng.choice(len(array), int(CHANGED * len(array)), replace=False)] += 1e-3


def memory(fresh: bool = False) -> tuple[int, int]:
    """Resident bytes of this process, shared ones included: now, and at most since the last call with `fresh`."""
    if fresh:
        Path("/proc/self/clear_refs").write_text("5")
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["VmRSS"].split()[0]) << 10, int(lines["VmHWM"].split()[0]) << 10


def shapes_of_7b() -> dict[str, tuple[int, ...]]:
    """bfloat16 tensors of some layers and both ends."""
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCAB, HIDDEN)}
    for at in range(LAYERS):
        sizes = {"q": (HIDDEN, HIDDEN), "k": (KEYS, HIDDEN), "v": (KEYS, HIDDEN), "o": (HIDDEN, HIDDEN)}
        found |= {f"model.layers.{at}.self_attn.{name}_proj.weight": size for name, size in sizes.items()}
        sizes = {"gate": (INNER, HIDDEN), "up": (INNER, HIDDEN), "down": (HIDDEN, INNER)}
        found |= {f"model.layers.{at}.mlp.{name}_proj.weight": size for name, size in sizes.items()}
    return found


def taken_beside(actor: Any) -> dict[str, Any]:
    """MB that sender and receiver grow by in a sync, both holding the weights before; at most, beside the largest tensor."""
    import numpy as np
    import ray

    from raylm.inference.sync.object_store import ObjectStore

    rng, card = np.random.default_rng(0), ObjectStore()
    arrays = {name: rng.integers(0, 1 << 16, size, np.uint16) for name, size in shapes_of_7b().items()}
    ray.get(actor.room.remote({name: array.shape for name, array in arrays.items()}))
    before = (memory(fresh=True)[0], ray.get(actor.memory.remote(True))[0])
    sent = card.sender().send(arrays.items(), [actor], 1, DEADLINE_S)
    after = (memory()[1], ray.get(actor.memory.remote())[1])
    (held,) = ray.get([actor.seen.remote()])
    largest = max(card.bucket_mb << 20, *(array.nbytes for array in arrays.values()))
    return {
        "checkpoint_mb": sum(array.nbytes for array in arrays.values()) >> 20,
        "largest_tensor_mb": largest >> 20,
        "sender_mb": (after[0] - before[0]) >> 20,
        "receiver_mb": (after[1] - before[1]) >> 20,
        "seconds": round(sent.seconds, 2),
        "ok": max(after[0] - before[0], after[1] - before[1]) < 2 * largest and held[:2] == (1, sent.digest),
    }


def memcpy_s(arrays: dict[str, Any], into: dict[str, Any]) -> float:
    import numpy as np

    began = time.perf_counter()
    for name, array in arrays.items():
        np.copyto(into[name], array)
    return time.perf_counter() - began


def measured(size_mb: int, actors: list[Any]) -> tuple[dict[str, float], dict[str, int], bool]:
    """Least seconds (others use this machine) and bytes by transport, and whether the generators held what was sent each time."""
    import ray

    from raylm.inference.buckets import weights_digest
    from raylm.inference.sync.delta import Delta
    from raylm.inference.sync.object_store import ObjectStore

    arrays = weights(size_mb)
    into = {name: array.copy() for name, array in arrays.items()}
    ways = {
        "object_store, 1 generator": (ObjectStore().sender(), actors[:1]),
        "object_store, 2 generators": (ObjectStore().sender(), actors[:2]),
        "object_store, loaded as it comes": (ObjectStore(staged_mb=0).sender(), actors[:1]),
        "object_store, another machine": (ObjectStore(staged_mb=0).sender(), actors[2:3]),
        "delta, 1 % changed": (Delta().sender(), actors[3:]),
    }
    spent: dict[str, list[float]] = {}
    sent_bytes, exact = {}, True
    for number in range(ROUNDS + 2):  # the first two make memory and connections
        change(arrays, number)
        spent.setdefault("memcpy", []).append(memcpy_s(arrays, into))
        for name, (sender, some) in ways.items():
            sent = sender.send(arrays.items(), some, number, DEADLINE_S)
            spent.setdefault(name, []).append(sent.seconds)
            sent_bytes[name] = sent.sent_bytes
            held = {one[:2] for one in ray.get([actor.seen.remote() for actor in some])}
            exact = exact and held == {(number, weights_digest(arrays.items()))}
        began = time.perf_counter()
        ray.get(actors[0].plain_put.remote(ray.put(arrays)))
        spent.setdefault("ray.put alone, no digest", []).append(time.perf_counter() - began)
    return {name: min(each[2:]) for name, each in spent.items()}, sent_bytes, exact


def main() -> None:
    import ray

    from raylm.core.workers import Workers

    workers, sizes = Workers(wanted_cpus=4), {name: SIZES[name] for name in (sys.argv[1:] or SIZES)}
    workers.ensure()
    found = {}
    for label, size_mb in sizes.items():
        actors = [ray.remote(Sink).options(num_cpus=0).remote(alone) for alone in (False, False, True, False)]
        seconds, sent_bytes, exact = measured(size_mb, actors)
        ratio = seconds["object_store, 1 generator"] / seconds["memcpy"]
        fewer = (size_mb << 20) / sent_bytes["delta, 1 % changed"]
        found[label] = {
            "seconds": {name: round(value, 4) for name, value in seconds.items()},
            "times memcpy": round(ratio, 2),
            "delta sends times fewer bytes": round(fewer, 1),
            "exact": exact,
        }
        print(f"{label}: {json.dumps(found[label])}", flush=True)
        for actor in actors:
            ray.kill(actor)
    actor = ray.remote(Sink).options(num_cpus=0).remote(False)
    taken = taken_beside(actor)
    print(f"memory: {json.dumps(taken)}", flush=True)
    workers.stop()
    last = found[[*sizes][-1]]
    ours, theirs = last["seconds"]["object_store, 1 generator"], last["seconds"]["memcpy"]
    exact = all(each["exact"] for each in found.values())
    print(
        json.dumps(
            {
                "name": "weight_sync",
                "peer": "memcpy of the same bytes, in memory that was used before",
                "peer_version": "numpy",
                "ours": ours,
                "theirs": theirs,
                "unit": f"s for {[*sizes][-1]}, packed, sent, compared and copied by the generator",
                "ratio": round(theirs / ours, 3),
                "goal": 0.333,
                "sizes": found,
                "quality": {"digest of the generators' tensors equals the trainer's in every round": exact},
                "memory beside the weights": taken,
                "ok": exact
                and taken["ok"]
                and all(each["times memcpy"] <= 3 for each in found.values())
                and all(each["delta sends times fewer bytes"] >= 5 for each in found.values()),
            }
        )
    )


if __name__ == "__main__":
    main()
