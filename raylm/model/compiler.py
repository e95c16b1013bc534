"""Whether torch.compile can generate kernels for a device."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec


@cache
def compiler_missing(device: str) -> str | None:
    """What torch.compile lacks on `device`, in words; None where it has all it needs."""
    if device == "cpu":
        from raylm.model.torch_private import missing_cpp_compilers

        missing = missing_cpp_compilers()
        return f"no C++ compiler among {', '.join(missing)}" if missing else None
    return None if find_spec("triton") else "no triton, which compiles kernels for GPUs"
