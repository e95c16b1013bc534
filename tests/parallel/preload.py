"""Imported once by the process from which ranks are forked: what every rank needs and what is slow to import."""

import pandas
import peft
import pyarrow.compute
import pyarrow.parquet
import pytest
import torch.distributed.checkpoint.state_dict
import torch.distributed.fsdp
import torch.distributed.tensor.parallel
import transformers.models.llama.modeling_llama

import raylm.train.config
import raylm.train.loop
import tests.parallel.loops

__all__ = ["pandas", "peft", "pyarrow", "pytest", "raylm", "tests", "torch", "transformers"]
