"""Programs that read what is exported: the closed set of cards that prove an export by running it."""

from typing import Annotated

from pydantic import Field

from raylm.compress.consumers.node_llama_cpp import NodeLlamaCpp
from raylm.compress.consumers.onnxruntime_genai import OnnxruntimeGenai
from raylm.compress.consumers.openvino import Openvino
from raylm.compress.consumers.transformers import Transformers
from raylm.compress.consumers.wllama import Wllama
from raylm.compress.consumers.xllamacpp import Xllamacpp

AnyConsumer = Annotated[
    NodeLlamaCpp | OnnxruntimeGenai | Openvino | Transformers | Wllama | Xllamacpp, Field(discriminator="kind")
]
