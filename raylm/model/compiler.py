"""Whether torch.compile can generate kernels for a device."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec


@cache
def compiler_missing(device: str) -> str | None:
    """What torch.compile lacks on `device`, in words; None where it has all it needs."""
    if device == "cpu":
        from torch._inductor import config
        from torch._inductor.cpp_builder import get_cpp_compiler
        from torch._inductor.exc import InvalidCxxCompiler

        try:
            get_cpp_compiler()
        except InvalidCxxCompiler:
            return f"no C++ compiler among {', '.join(str(name) for name in config.cpp.cxx if name)}"
        return None
    return None if find_spec("triton") else "no triton, which compiles kernels for GPUs"
