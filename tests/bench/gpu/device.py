"""Which device and versions the verdicts are of, and what the device itself does: the floor under all other figures."""

from __future__ import annotations

import platform
from typing import Any

from tests.bench.gpu.check import Check, device, milliseconds


def versions(smoke: bool) -> dict[str, Any]:
    from importlib.metadata import PackageNotFoundError, version

    import torch

    found: dict[str, Any] = {"python": platform.python_version()}
    for name in ("torch", "transformers", "peft", "bitsandbytes", "triton", "liger-kernel", "torchao", "numpy", "pydantic"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    if device() == "cuda":
        free, whole = torch.cuda.mem_get_info()
        major, minor = torch.cuda.get_device_capability()
        found |= {"device": torch.cuda.get_device_name(), "capability": f"{major}.{minor}", "memory_gb": round(whole / 1e9, 1)}
        found |= {"free_gb": round(free / 1e9, 1), "cuda": torch.version.cuda, "gpus": torch.cuda.device_count()}
    else:
        found["device"] = "cpu"
    return found


def matrix_product(smoke: bool) -> dict[str, Any]:
    """TFLOP/s of square products, bfloat16 and float32."""
    import torch

    size, found = 256 if smoke else 8192, {}
    for dtype in (torch.bfloat16, torch.float32):
        left, right = (torch.randn(size, size, device=device(), dtype=dtype) for _ in range(2))
        took = milliseconds(lambda left=left, right=right: left @ right, 5)
        found[str(dtype).removeprefix("torch.")] = round(2 * size**3 / took / 1e9, 1)
    return found


CHECKS = {"versions": Check(versions, 30), "matrix_product": Check(matrix_product, 30)}
