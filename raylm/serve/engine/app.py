"""What a replica serves, and the engine for it."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from raylm.core.config import digest_of
from raylm.core.storage import Folder, own_folder
from raylm.inference.config import EngineSettings
from raylm.inference.engine import build_engine
from raylm.inference.vllm_private import WEIGHT_RECEIVER
from raylm.inference.vllm_serving_private import Step, stat_logger
from raylm.model.checkpoint import GENERATION, end_tokens
from raylm.model.load import load_tokenizer
from raylm.serve.api.tasks import engine_options
from raylm.serve.config import Limits
from raylm.serve.directory import AdapterOrder
from raylm.serve.engine.adapter_check import modules_of
from raylm.serve.served_model import LoraSettings


class Served(NamedTuple):
    """What a replica needs to know of its model. No secret. `dtype` is what the job asks for."""

    model: str
    fingerprint: str
    model_name: str
    dtype: str
    max_len: int | None
    gpu: bool
    memory_share: float
    limits: Limits
    engine: EngineSettings = EngineSettings()
    task: str = "generate"
    adapters: tuple[AdapterOrder, ...] = ()
    """That it begins with."""
    lineage: dict[str, Any] = {}
    """Job, report and base model of the weights, for /v1/models."""
    lora: LoraSettings | None = None
    """Room for adapters."""


def start_engine(served: Served, model: str, dtype: str, heard: Callable[[Step], None], reasoning: str = "") -> Any:
    """A ready AsyncLLM, whose steps `heard` is told of. Blocks for as long as the engine core needs to start.

    Args:
        reasoning: vLLM's parser of the model's thoughts: a form that is asked for holds from the end of the thought.
    """
    return build_engine(
        model,
        dtype=dtype,
        max_len=served.max_len,
        gpu=served.gpu,
        memory_share=served.memory_share,
        # it may die of a request; the process around it answers those that wait, and the replica starts both anew
        own_process=True,
        forks=True,
        stat_loggers=[stat_logger(heard)],
        # weights are swapped in place, and proved before other requests are answered
        worker_extension_cls=WEIGHT_RECEIVER,
        scheduling_policy="priority",
        served_model_name=[served.model_name],
        max_logprobs=served.limits.num_logprobs,
        # xgrammar, the default, compiles a schema whole before the first token: minutes for some, in the one thread for all.
        # llguidance reads it as it goes and bounds its own work. White space between tokens is where small models get lost
        structured_outputs_config={"backend": "guidance", "disable_any_whitespace": True, "reasoning_parser": reasoning},
        generation_config=with_ends(model),
        **served.engine.options,
        **engine_options(served.task, served.lora, modules_of(model) if served.lora else ()),
    )


def with_ends(model: str) -> str:
    """Where vLLM finds the generation config of `model`: "auto", which is beside it, or a folder with one that also names the
    end of a turn, for a checkpoint whose own leaves it out: its answers would run on to the limit."""
    folder = Path(model)
    if not folder.is_dir():
        return "auto"
    config = json.loads((folder / GENERATION).read_text()) if (folder / GENERATION).is_file() else {}
    said = config.get("eos_token_id")
    ends = end_tokens(folder, load_tokenizer(model))
    if set(ends) == {*(said if isinstance(said, list) else [said])}:
        return "auto"
    # named by what it holds: an engine that starts again finds it, and no start leaves another folder behind
    told = {**config, "eos_token_id": ends}
    own = Path(tempfile.gettempdir()) / f"raylm-generation-{os.getuid()}"
    own_folder(own)
    at = Folder(str(own)) / digest_of(told)
    at.write(GENERATION, json.dumps(told))
    return at.uri
