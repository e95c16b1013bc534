"""The allocator of rank processes: memory that a step freed is used by the next step."""

from __future__ import annotations

import os
import subprocess
import sys

from raylm.parallel.group.allocator import allocator

# tensors of a forward pass, of which every second is let go, and as many again: what a backward pass does all the time
STEP = """
import re, torch
torch.set_num_threads(1)
def grown(name="VmHWM"):
    return int(re.search(name + r":\\s+(\\d+)", open("/proc/self/status").read()).group(1)) * 1024
before, size = grown("VmRSS"), 500_000
# a block this large once freed, glibc takes all smaller ones from one heap
del (large := [torch.ones(7_000_000)])[:]
kept = [torch.ones(size) for _ in range(100)]
for _ in range(3):
    kept[::2] = [None] * 50
    kept[::2] = [torch.ones(size) for _ in range(50)]
print((grown() - before) / (100 * size * 4), "libjemalloc" in open("/proc/self/maps").read())
"""


def run(env):
    share, preloaded = subprocess.run(
        [sys.executable, "-c", STEP], env={**os.environ, **env}, capture_output=True, text=True, check=True
    ).stdout.split()
    return float(share), preloaded == "True"


def test_a_rank_on_a_cpu_holds_what_its_tensors_take():
    env = allocator(use_gpu=False)
    share, preloaded = run(env)
    assert preloaded == bool(env)
    assert not env or share < 1.15


def test_ranks_on_gpus_and_what_is_preloaded_already_are_left_alone(monkeypatch):
    assert allocator(use_gpu=True) == {}
    monkeypatch.setenv("LD_PRELOAD", "libother.so")
    assert allocator(use_gpu=False) == {}
