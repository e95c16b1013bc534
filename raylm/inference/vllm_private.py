"""All that raylm uses of vLLM beyond its documented interface. Its test names the version and fails when that changes.

Documented are `vllm`, `vllm.engine.arg_utils` and `vllm.v1.engine.async_llm`; they are imported where they are used.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, cast

from raylm.core.config import did_you_mean
from raylm.core.errors import ConfigError

if TYPE_CHECKING:
    from raylm.inference.buckets import Receiver
    from raylm.inference.shared_memory import Maps

VLLM = "0.32"
"""The version whose source this file was written against."""

WEIGHT_RECEIVER = f"{__name__}.WeightReceiver"
"""Name of the class that every worker of an engine is mixed with, for `worker_extension_cls`."""


def counting(counts: Counter[str]) -> Any:
    """A logger of vLLM's statistics that adds up in `counts` the tokens that speculation `drafted` and that were `accepted`."""
    from vllm.v1.metrics.loggers import StatLoggerBase

    class Counting(StatLoggerBase):
        def __init__(self, vllm_config: Any, engine_index: int = 0) -> None: ...

        def record(self, scheduler_stats: Any, iteration_stats: Any, mm_cache_stats: Any = None, engine_idx: int = 0) -> None:
            if scheduler_stats is not None and (found := scheduler_stats.spec_decoding_stats):
                counts.update(drafted=found.num_draft_tokens, accepted=found.num_accepted_tokens)

        def log_engine_initialized(self) -> None: ...

    return Counting


def is_dead(engine: Any, cause: BaseException | None = None) -> bool:
    """Whether the engine core of an AsyncLLM has ended, or `cause` says so."""
    from vllm.v1.engine.exceptions import EngineDeadError

    return isinstance(cause, EngineDeadError) or bool(engine.errored)


def progress(engine: Any) -> int:
    """A number that changes with each token of any request, and with each request that comes or goes."""
    states = engine.output_processor.request_states
    return hash(tuple((name, state.detokenizer.num_output_tokens()) for name, state in list(states.items())))


def tokens_under_way(engine: Any) -> dict[str, list[tuple[int, int]]]:
    """Of each request of an AsyncLLM that is not finished, by the id that it came with: places among its choices, and how many
    tokens each of them has."""
    found: dict[str, list[tuple[int, int]]] = {}
    for state in list(engine.output_processor.request_states.values()):
        if state.detokenizer is not None:
            found.setdefault(state.external_req_id, []).append((state.request_index, state.detokenizer.num_output_tokens()))
    return found


class WeightReceiver:
    """Methods that every worker of an engine gets, called by `AsyncLLM.collective_rpc` with names, numbers and paths only."""

    model_runner: Any
    vllm_config: Any
    raylm_received: Receiver
    raylm_maps: Maps

    def raylm_begin_weights(self) -> None:
        """Open all layers for new weights. What an earlier transfer that broke off left in them is dropped."""
        from vllm.config import set_current_vllm_config
        from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info, initialize_layerwise_reload

        from raylm.inference.buckets import Receiver
        from raylm.inference.shared_memory import Maps

        self.raylm_maps = getattr(self, "raylm_maps", None) or Maps()
        self.raylm_received = Receiver(self.raylm_maps)
        model = self.model_runner.get_model()
        for layer in model.modules():
            open_before = get_layerwise_info(layer)
            open_before.load_numel = 0
            open_before.loaded_weights.clear()
        with set_current_vllm_config(self.vllm_config):
            initialize_layerwise_reload(model)

    def raylm_take_weights(self, path: str, table: list[Any], at: int = 0, compared: bool = False) -> None:
        """Load the tensors that are whole with the bucket at byte `at` of `path`; `table` says what lies where in it. Its memory
        may be written anew after this. Bytes that were `compared` are left out of the digest."""
        from vllm.config import set_current_vllm_config

        named, model = self.raylm_received.take(path, table, at, compared), self.model_runner.get_model()
        with set_current_vllm_config(self.vllm_config):
            model.load_weights(named)
        keep_what_waits(model, self.raylm_maps)

    def raylm_finish_weights(self) -> str:
        """Close the layers, drop what was derived of earlier weights; returns the digest of what came."""
        from vllm.config import set_current_vllm_config
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

        received, runner = self.raylm_received, self.model_runner
        digest = received.digest()
        if missing := parameters_not_loaded(runner.get_model()):
            # vLLM would put the old ones back, with a warning
            raise RuntimeError(f"no new weights came for {len(missing)} parameters: {', '.join(missing[:8])}")
        with set_current_vllm_config(self.vllm_config):
            finalize_layerwise_reload(runner.get_model(), self.vllm_config.model_config)
        runner.reset_lora_state()
        runner.reset_encoder_cache()
        runner.reset_mm_cache()
        self.raylm_repack_head()
        return digest

    def raylm_put_weights(self, lying: list[Any]) -> str:
        """All of the above for weights that lie in shared memory and were compared: path, first byte and table of each bucket."""
        self.raylm_begin_weights()
        for path, at, table in lying:
            self.raylm_take_weights(path, table, at, compared=True)
        return self.raylm_finish_weights()

    def raylm_forget_weights(self) -> None:
        """Let go of memory that others share, in which weights lay."""
        from raylm.inference.buckets import Receiver
        from raylm.inference.shared_memory import Maps

        self.raylm_maps = Maps()
        self.raylm_received = Receiver(self.raylm_maps)

    def raylm_begin_transfer(self) -> None:
        """Open all layers for weights that vLLM's own transfer brings; one that broke off is forgotten."""
        worker: Any = self
        if worker._weight_update_active:
            worker.weight_transfer_engine.reset_weight_update_target()
            worker._weight_update_active = False
        self.raylm_begin_weights()
        worker.start_weight_update()

    def raylm_take_transfer(self, update_info: bytes) -> None:
        """Receive what the trainer's side says, pickled: it may hold handles of GPU memory."""
        import pickle

        worker: Any = self
        worker.update_weights(pickle.loads(update_info))

    def raylm_close_transfer(self) -> None:
        """Close the layers, drop what was derived of earlier weights."""
        worker, runner = cast(Any, self), self.model_runner
        if missing := parameters_not_loaded(runner.get_model()):
            raise RuntimeError(f"no new weights came for {len(missing)} parameters: {', '.join(missing[:8])}")
        worker.finish_weight_update()
        runner.reset_encoder_cache()
        runner.reset_mm_cache()

    def raylm_repack_head(self) -> None:
        """The CPU backend keeps a packed copy of the output head's weight. vLLM's reload renews it only when the head's weight
        came by its own name; a head tied to the embedding would go on answering with the old weights, without a word."""
        for module in self.model_runner.get_model().modules():
            if type(module).__name__ == "ParallelLMHead" and hasattr(module, "cpu_linear"):
                module.quant_method.process_weights_after_loading(module)


def keep_what_waits(model: Any, maps: Maps) -> None:
    """Copy the tensors that wait in a layer for the rest of it: the sender writes its next bucket in their memory."""
    import torch
    from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info

    for layer in model.modules():
        info = get_layerwise_info(layer)
        for _, given in info.loaded_weights if info.can_load() else ():
            for key, value in given.arguments.items():
                if isinstance(value, torch.Tensor) and not value.is_meta and maps.has(value.data_ptr()):
                    given.arguments[key] = value.clone()


def parameters_not_loaded(model: Any) -> list[str]:
    """Parameters of a vLLM model, open for a transfer, for which nothing came, or a part where its loader tells a part. Buffers
    and scales of attention come from no checkpoint; a head tied to the embedding has what that got."""
    from vllm.model_executor.layers.attention import is_deferred_attention_layer
    from vllm.model_executor.layers.linear import LinearBase, UnquantizedLinearMethod
    from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info
    from vllm.model_executor.model_loader.reload.meta import SKIP_LOAD_TENSORS
    from vllm.model_executor.model_loader.reload.utils import get_tensor_load_numel

    loaded: set[int] = set()
    still_open = []
    for name, layer in model.named_modules():
        info = get_layerwise_info(layer)
        if not info.can_load():
            # closed, for all of it came: it has the tensors back that the engine computes with
            loaded |= {id(parameter) for parameter in layer.parameters(recurse=False)}
        elif not is_deferred_attention_layer(layer):
            before, came = (info.kernel_tensors or ({}, {}))[0], {key for key, _ in info.loaded_weights}
            loaded |= {id(before[key]) for key in came if key in before}
            still_open.append((name, layer, info, before, came))
    missing = []
    for name, layer, info, before, came in still_open:
        own = {key: one for key, one in layer.named_parameters(recurse=False) if key not in SKIP_LOAD_TENSORS}
        left = [key for key in own if key not in came and id(before.get(key)) not in loaded]
        # other layers may be padded beyond what a checkpoint has, as embeddings are
        exact = isinstance(layer, LinearBase) and isinstance(layer.quant_method, UnquantizedLinearMethod)
        if exact and not left and info.load_numel < sum(map(get_tensor_load_numel, own.values())):
            left = sorted(came)
        missing += [f"{name}.{key}" for key in left]
    return missing


def nccl_trainer(client: Any, source: Any, num_workers: int, bucket_bytes: int) -> Any:
    """vLLM's trainer side of a transfer by NCCL, joined with all workers behind `client`, see `gpu_transfer`."""
    from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo, NCCLTrainerWeightTransferEngine
    from vllm.utils.network_utils import get_ip, get_open_port

    init = NCCLTrainerInitInfo(
        master_address=get_ip(),
        master_port=get_open_port(),
        world_size=1 + num_workers,
        packed_buffer_size_bytes=bucket_bytes,
        rank=0,
    )
    return NCCLTrainerWeightTransferEngine.trainer_init(init, client=client, source=_weight_source(source))


def ipc_trainer(client: Any, source: Any, num_workers: int, bucket_bytes: int) -> Any:
    """vLLM's trainer side of a transfer by CUDA IPC, see `gpu_transfer`."""
    from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo, IPCTrainerWeightTransferEngine

    init = IPCTrainerInitInfo(packed=True, packed_buffer_size_bytes=bucket_bytes, rank=0)
    return IPCTrainerWeightTransferEngine.trainer_init(init, client=client, source=_weight_source(source))


def _weight_source(source: Any) -> Any:
    from vllm.distributed.weight_transfer.base import ParamMeta, WeightSource

    class Weights(WeightSource):
        def metadata(self) -> list[ParamMeta]:
            return [ParamMeta(*one) for one in source.described]

        def __iter__(self) -> Iterator[tuple[str, Any]]:
            return source.tensors()

    return Weights()


def server_arguments(model_name: str, tool_parser: str = "", reasoning_parser: str = "") -> Any:
    """Arguments of vLLM's HTTP server with their defaults, less what a keyed endpoint must not have (CORS for everybody).
    Imports the server, which is slow.

    Args:
        tool_parser: vLLM's name of what reads the model's calls of tools; "" reads none.
        reasoning_parser: vLLM's name of what reads the model's thoughts; "" reads none.
    """
    import vllm.entrypoints.generate.api_router
    import vllm.entrypoints.launchers.api_server.app_state
    import vllm.entrypoints.launchers.app  # noqa: F401
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    arguments: Any = make_arg_parser(FlexibleArgumentParser()).parse_args([])
    # the engine has its own; here it is what /v1/models shows as the model's root
    arguments.model, arguments.served_model_name = model_name, [model_name]
    arguments.allowed_origins, arguments.disable_fastapi_docs = [], True
    arguments.enable_auto_tool_choice, arguments.tool_call_parser = bool(tool_parser), tool_parser or None
    # the engine is told too: a form that is asked for holds from the end of the thought
    arguments.structured_outputs_config.reasoning_parser = reasoning_parser
    return arguments


async def server_app(engine: Any, arguments: Any) -> Any:
    """vLLM's OpenAI-compatible application (FastAPI) around an AsyncLLM."""
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state
    from vllm.entrypoints.launchers.app import build_app

    tasks = await engine.get_supported_tasks()
    app = build_app(arguments, tasks, engine.model_config)
    await init_app_state(engine, app.state, arguments, tasks)
    return app


def base_error() -> type[Exception]:
    """The class of all of vLLM's own errors."""
    from vllm.exceptions import VLLMError

    return VLLMError


def is_of_request(cause: Exception) -> bool:
    """Whether an engine that lives could not go on with one request."""
    from vllm.v1.engine.exceptions import EngineGenerateError

    return isinstance(cause, EngineGenerateError)


def error_response(cause: Exception) -> tuple[int, bytes]:
    """HTTP status and body that vLLM's server would answer an error with."""
    from vllm.entrypoints.serve import create_error_response

    found = create_error_response(cause)
    return int(found.error.code), found.model_dump_json().encode()


def parameter_of(place: Any) -> str:
    """A validation error's place in a request's body as vLLM's server words it; names of classes are parts of it too."""
    from vllm.entrypoints.serve.exception_handling.handlers.validation import clean_loc_for_param

    return clean_loc_for_param(place)


def vllm_parser(name: str, tokenizer: Any, tools: list[dict[str, Any]]) -> Callable[[str], tuple[str, list[dict[str, Any]]]]:
    """vLLM's parser of that name as a function: text of one turn, special tokens kept -> (content, calls).

    Calls are `{"name": ..., "arguments": "<JSON>"}`; none where the parser reads none, also where it fails.

    Raises:
        ConfigError: vLLM has no parser of that name, or it does not take this tokenizer.
    """
    # read once, when a parser's class is made: an endpoint in this process would not constrain forced calls
    os.environ.setdefault("VLLM_ENFORCE_STRICT_TOOL_CALLING", "0")
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.tool_parsers import ToolParserManager

    try:
        kind = ToolParserManager.get_tool_parser(name)
    except KeyError:
        known = [*ToolParserManager.lazy_parsers, *ToolParserManager.tool_parsers]
        raise ConfigError(f"vLLM has no tool parser {name!r}.{did_you_mean(name, known)}", where="tool_parser") from None
    request = ChatCompletionRequest(model="", messages=[{"role": "user", "content": ""}], tools=tools or None)  # type: ignore[arg-type]

    offered: Any = request.tools

    def read(text: str) -> tuple[str, list[dict[str, Any]]]:
        # a new one for each turn: parsers keep what they have streamed
        found = kind(tokenizer, offered).extract_tool_calls(text, request)
        calls = [{"name": call.function.name, "arguments": call.function.arguments} for call in found.tool_calls]
        return found.content or "", calls

    try:
        kind(tokenizer, offered)
    except (RuntimeError, ValueError, TypeError, AttributeError) as cause:
        raise ConfigError(f"vLLM's tool parser {name!r} does not take this tokenizer: {cause}", where="tool_parser") from cause
    return read
