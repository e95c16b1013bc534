"""gpu_check goes on past what fails, hangs or dies, and needs neither Ray nor vLLM."""

from __future__ import annotations

from tests.bench import gpu_check

BROKEN = """
import os, time
from tests.bench.gpu.check import Check, Skipped

def raises(smoke): raise ValueError("no such kernel")
def hangs(smoke): time.sleep(60)
def dies(smoke): os._exit(7)
def skips(smoke): raise Skipped("nothing here")
def far(smoke): return {"ok": False, "difference": 0.123456}
def passes(smoke): return {"ok": smoke, "figures": [1 / 3]}

CHECKS = {name: Check(globals()[name], 2.0) for name in ("raises", "hangs", "dies", "skips", "far", "passes")}
"""


def test_a_check_that_fails_does_not_stop_the_others(tmp_path, monkeypatch):
    (tmp_path / "broken_checks.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = gpu_check.run(["broken_checks"], smoke=True)
    verdicts = {name.partition("/")[2]: verdict["verdict"] for name, verdict in found["checks"].items()}
    assert verdicts == {
        "raises": "failed", "hangs": "stopped", "dies": "died", "skips": "skipped", "far": "failed", "passes": "ok"
    }  # fmt: skip
    assert "no such kernel" in found["checks"]["broken_checks/raises"]["why"]
    assert found["checks"]["broken_checks/passes"]["figures"] == [0.3333] and not found["ok"]
    late = gpu_check.run(["broken_checks"], budget_s=-1.0)
    assert late["counts"] == {"not run": 6}


def test_checks_need_neither_ray_nor_vllm(tmp_path, monkeypatch):
    for package in ("ray", "vllm"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text(f"raise ImportError('{package} is not here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    checks = ["device/", "engine/resumed", "cross_entropy/chunked_50k", "optimizers/adamw", "memory/bfloat16"]
    found = gpu_check.run([f"{gpu_check.ROOM}{name}" for name in gpu_check.MODULES], smoke=True, only=checks)
    assert found["ok"] and found["counts"] == {"ok": len(found["checks"])}, found
    assert len(found["checks"]) == 6
