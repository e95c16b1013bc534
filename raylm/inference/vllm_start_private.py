"""How an engine of vLLM starts in this process: private interfaces, as in `vllm_private`, whose test is theirs too."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from types import ModuleType
from typing import Any


class _OwnModules:
    """`sys` as vLLM's search for its kernels is to see it: with the modules of vLLM alone."""

    @property
    def modules(self) -> dict[str, ModuleType]:
        """Modules of vLLM, by name."""
        return {name: module for name, module in list(sys.modules.items()) if name.partition(".")[0] == "vllm"}


def search_own_kernels() -> None:
    """Let vLLM look for its own kernels among its own modules.

    A start on a CPU reads `vars()` of whatever stands in any module of the process and takes it for a dict: an object of
    llvmlite's (which numba imports) answers with a function of LLVM's, one of Flask's raises, and the start fails.
    """
    from vllm.triton_utils.dispatcher import _rebind_kernels

    _rebind_kernels.__globals__["sys"] = _OwnModules()


def engine_in_thread(arguments: Any, stat_loggers: list[Any] | None = None) -> Any:
    """A ready AsyncLLM whose engine core is a thread of this process, where vLLM's own way is a process beside it.

    For engines on CPUs: a second process would import vLLM once more (8 s of CPU time, 0.4 GB). When the core ends, requests
    raise EngineDeadError as they do when a core process dies.

    Args:
        arguments: AsyncEngineArgs.
        stat_loggers: what is told of each step.
    """
    from vllm.utils.network_utils import get_open_zmq_ipc_path
    from vllm.v1.engine.async_llm import AsyncLLM
    from vllm.v1.engine.core import EngineCoreProc
    from vllm.v1.engine.utils import EngineZmqAddresses
    from vllm.v1.executor import Executor

    class Core(EngineCoreProc):
        @contextlib.contextmanager
        def _perform_handshakes(self, handshake_address: Any, *_: Any) -> Iterator[Any]:
            # client and core have one configuration: there is nothing to agree on
            yield handshake_address

    config = arguments.create_engine_config()
    executor = Executor.get_class(config)
    addresses = EngineZmqAddresses(inputs=[get_open_zmq_ipc_path()], outputs=[get_open_zmq_ipc_path()])
    built, failures = threading.Event(), []

    def run() -> None:
        core = None
        try:
            core = Core(config, True, addresses, executor, stat_loggers is not None)  # type: ignore[arg-type]
            built.set()
            core.run_busy_loop()
        except SystemExit:
            pass
        finally:
            failures.append(sys.exception())
            built.set()
            if core is not None and failures[0]:
                core._send_engine_dead()

    threading.Thread(target=run, name="vllm-engine-core", daemon=True).start()
    built.wait()
    if failures:
        raise failures[0] or RuntimeError("the engine core ended while it started")
    client = {"input_address": addresses.inputs[0], "output_address": addresses.outputs[0]}
    options: Any = {"stat_loggers": stat_loggers, "client_addresses": client}
    return AsyncLLM(config, executor, log_stats=False, log_requests=False, **options)
