"""One tiny engine with the app of a replica around it, for all tests of what that app answers; what endpoints are started of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from raylm.core.artifact import Checkpoint
from raylm.core.storage import Folder
from raylm.core.workers import Workers
from raylm.model.load import load_tokenizer
from raylm.serve import stage
from raylm.tokenize.trainers.layout import CHAT_TEMPLATE
from tests.model.tiny import tiny_checkpoint
from tests.serve.endpoints import context
from tests.serve.in_process import Running, running, write_checkpoint


@pytest.fixture(scope="package")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """What answers."""
    with running(write_checkpoint(tmp_path_factory.mktemp("tiny") / "model")) as made:
        yield made
    from vllm.distributed.parallel_state import destroy_distributed_environment, destroy_model_parallel

    # the next test of this process is alone again
    destroy_model_parallel()
    destroy_distributed_environment()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """Where a module's artifacts lie."""
    return Folder(tmp_path_factory.mktemp("job"))


@pytest.fixture(scope="module")
def checkpoint(root: Folder, workers: Workers) -> Checkpoint:
    """What a module's endpoint serves."""
    made = tiny_checkpoint((root / "sft").uri)
    tokenizer = load_tokenizer(str(made))
    tokenizer.chat_template = CHAT_TEMPLATE  # the one that raylm gives new tokenizers: it renders tools
    tokenizer.save_pretrained(made)
    return context("sft", root, workers).commit(Checkpoint, facts={"dtype": "float32"})


@pytest.fixture(scope="module")
def client(endpoint: Any) -> Any:
    """OpenAI's, with the endpoint's key; a module has its own `endpoint`."""
    from openai import OpenAI

    return OpenAI(base_url=endpoint.facts["url"], api_key=stage.endpoint_key(endpoint), max_retries=0, timeout=60)
