"""The engine on the device: the numbers of a CPU, layouts of one rank, what is computed again, compiled blocks, resume."""

from __future__ import annotations

import os
import socket
from typing import Any

from tests.bench.gpu.check import Check, apart, device, need, need_gpu, trained


def same_as_cpu(smoke: bool) -> dict[str, Any]:
    """Float32 losses of the device and of the CPU."""
    found = {}
    for name, packed in (("rows", False), ("documents", True)):
        here, there = (trained(smoke=smoke, steps=5, tiny=True, at=at, packed=packed).losses for at in (device(), "cpu"))
        found[name] = apart(here, there)
    return {"ok": max(found.values()) < 1e-4, **found}


def adapter(smoke: bool) -> dict[str, Any]:
    need("peft")
    table = {"adapter": {"kind": "lora", "rank": 8}}
    here, there = (trained(table, smoke=smoke, steps=4, tiny=True, at=at).losses for at in (device(), "cpu"))
    return {"ok": apart(here, there) < 1e-4, "difference": apart(here, there)}


def sharded(smoke: bool) -> dict[str, Any]:
    """FSDP2 in a process group of one rank, with and without offload, against the bare model."""
    import torch.distributed as dist

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": "0", "WORLD_SIZE": "1"}
    alone = trained({"dtype": "bfloat16"}, smoke=smoke, steps=4, tiny=True).losses
    backend = "cpu:gloo,cuda:nccl" if device() == "cuda" else "gloo"
    dist.init_process_group(backend, rank=0, world_size=1)
    try:
        found = {}
        for name, more in (("fsdp", {}), ("offload", {"offload": True})):
            table = {"dtype": "bfloat16", "strategy": {"kind": "fsdp", **more}}
            found[name] = apart(trained(table, smoke=smoke, steps=4, tiny=True).losses, alone)
    finally:
        dist.destroy_process_group()
    return {"ok": max(found.values()) < 1e-2, **found}


def activation_checkpointing(smoke: bool) -> dict[str, Any]:
    """Equal losses, less memory."""
    plain = trained({"dtype": "bfloat16"}, smoke=smoke, steps=5)
    found: dict[str, Any] = {"none_gb": plain.peak / 1e9}
    ok = True
    for how in ("selective", "full"):
        again = trained({"dtype": "bfloat16", "activation_checkpointing": how}, smoke=smoke, steps=5)
        found |= {f"{how}_gb": again.peak / 1e9, f"{how}_difference": apart(again.losses, plain.losses)}
        found[f"{how}_time"] = again.step_s / plain.step_s
        ok = ok and found[f"{how}_difference"] < 5e-3 and (again.peak < plain.peak or not plain.peak)
    return {"ok": ok, **found}


def compiled(smoke: bool) -> dict[str, Any]:
    need_gpu("compiled blocks on CPUs have tests of their own")
    eager, made = (trained({"dtype": "bfloat16", "compile": c}, smoke=smoke, steps=8) for c in (False, True))
    far = apart(made.losses, eager.losses)
    return {"ok": far < 2e-2, "difference": far, "first_step_s": made.first_s, "speed": eager.step_s / made.step_s,
            "gb": made.peak / 1e9, "eager_gb": eager.peak / 1e9}  # fmt: skip


def liger(smoke: bool) -> dict[str, Any]:
    need_gpu()
    need("liger_kernel")
    plain, fused = (trained({"dtype": "bfloat16", "kernels": k}, smoke=smoke, steps=6) for k in ("none", "liger"))
    far = apart(fused.losses, plain.losses)
    return {"ok": far < 2e-2, "difference": far, "speed": plain.step_s / fused.step_s}


def resumed(smoke: bool) -> dict[str, Any]:
    """A step checkpoint written from the device: three steps, saved, three more; against the same after a load."""
    import tempfile

    from raylm.core.storage import Folder
    from raylm.parallel.assemble import assemble
    from raylm.parallel.checkpoints.saver import Saver
    from raylm.parallel.checkpoints.steps import Keeping
    from raylm.train.batches import Batches
    from tests.bench.gpu.check import built, one_step, rows, stage

    cfg = stage({"dtype": "bfloat16"}, tiny=True, steps=6)
    batches = Batches(rows(True, 6 * cfg.batch), "Tokens", batch=cfg.batch, micro=4, seed=0, pad_id=0, rank=0, world=1,
                      device=device())  # fmt: skip
    losses: list[list[float]] = []
    with tempfile.TemporaryDirectory() as at:
        for is_first in (True, False):
            engine = assemble(built(cfg, True).to(device()).train(), cfg, 6)
            saver = Saver(engine, Folder(at), Keeping(1), 1)
            if is_first:
                for step in range(3):
                    one_step(engine, cfg.objective, batches.at(step))
                saver.copy()
                saver.write({}, [])
                saver.wait()
            else:
                saver.load(None)
            losses.append([float(engine.done), *(one_step(engine, cfg.objective, batches.at(step)) for step in range(3, 6))])
            saver.close()
    return {"ok": losses[0] == losses[1] or apart(*losses) < 1e-6, "difference": apart(*losses)}


CHECKS = {
    "same_as_cpu": Check(same_as_cpu),
    "resumed": Check(resumed),
    "adapter": Check(adapter),
    "activation_checkpointing": Check(activation_checkpointing),
    "sharded": Check(sharded),
    "compiled": Check(compiled, 120),
    "liger": Check(liger),
}
