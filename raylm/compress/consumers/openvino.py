"""openvino-genai: Intel's runtime, which reads GGUF files (F16, Q8_0, Q4_0, Q4_K_M) and builds its own network of them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, ClassVar, Literal

from raylm.compress.consumers.consumer import Consumer, Prompt, Ran, package_version
from raylm.compress.consumers.xllamacpp import gguf_in

ARCHITECTURES = ("llama", "qwen2", "qwen3")
PRE_TOKENIZERS = ("qwen2", "smollm")
"""To files of any other its tokenizer for GGUF cuts text as for Qwen, without a word."""
TYPES = {"F16", "Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q6_K"}
"""Of matrices. To any other it says `Unsupported quantization type`."""


class Openvino(Consumer):
    """The Python package (https://github.com/openvinotoolkit/openvino.genai), on a CPU, in float32.

    openvino_telemetry, which it brings, sends what its tools did to Google Analytics: it is kept out of this process.
    """

    reads: ClassVar[tuple[str, ...]] = ("gguf",)

    kind: Literal["openvino"] = "openvino"

    def installed(self) -> str:
        return "" if package_version("openvino-genai") else "openvino-genai is not installed: pip install 'raylm[export]'"

    def refuses(self, folder: Path) -> str:
        import gguf

        reader = gguf.GGUFReader(gguf_in(folder))
        named = reader.get_field("general.architecture")
        if (architecture := str(named.contents()) if named else "") not in ARCHITECTURES:
            return f"OpenVINO builds no network of the architecture {architecture!r}"
        said = reader.get_field("tokenizer.ggml.pre")
        if (pre := str(said.contents()) if said else "") not in PRE_TOKENIZERS:
            return f"OpenVINO splits text as qwen2 does, whatever the file says: {pre}"
        types = {tensor.tensor_type.name for tensor in reader.tensors if len(tensor.shape) > 1}
        return f"OpenVINO reads no {', '.join(sorted(types - TYPES))}" if types - TYPES else ""

    def version(self) -> str:
        return package_version("openvino-genai")

    def run(self, folder: Path, prompts: list[Prompt], max_tokens: int) -> list[Ran]:
        without_telemetry()
        import openvino_genai

        genai: Any = openvino_genai
        pipe = genai.LLMPipeline(str(gguf_in(folder)), "CPU", INFERENCE_PRECISION_HINT="f32", KV_CACHE_PRECISION="f32")
        tokenizer = pipe.get_tokenizer()
        settings = genai.GenerationConfig(max_new_tokens=max_tokens, do_sample=False, apply_chat_template=False)
        settings.set_eos_token_id(tokenizer.get_eos_token_id())
        return [_answer(pipe, tokenizer, settings, prompt) for prompt in prompts]


def without_telemetry() -> None:
    """Make the import of openvino_telemetry fail: openvino then takes its own stub, which sends nothing."""
    sys.modules["openvino_telemetry"] = None  # pyright: ignore[reportArgumentType]


def _answer(pipe: Any, tokenizer: Any, settings: Any, prompt: Prompt) -> Ran:
    talk = not isinstance(prompt, str)
    text = tokenizer.apply_chat_template(prompt, add_generation_prompt=True) if talk else prompt
    encoded = tokenizer.encode(text, add_special_tokens=not talk)
    ids = [int(token) for token in encoded.input_ids.data[0]]
    tokens = [int(token) for token in pipe.generate(encoded, settings).tokens[0]]
    answer = tokens[:-1] if tokens and tokens[-1] == tokenizer.get_eos_token_id() else tokens
    return Ran(ids, len(ids), answer, str(tokenizer.decode(answer)), None)
