"""onnxruntime-genai: Microsoft's runtime of language models, its own tokenizer, chat templates and loop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar, Literal

from raylm.compress.consumers.consumer import Consumer, Prompt, Ran, package_version, top

MOST_KEPT = 4096


class OnnxruntimeGenai(Consumer):
    """The Python package (https://github.com/microsoft/onnxruntime-genai), on a CPU."""

    reads: ClassVar[tuple[str, ...]] = ("onnx",)

    kind: Literal["onnxruntime_genai"] = "onnxruntime_genai"

    def installed(self) -> str:
        return "" if package_version("onnxruntime-genai") else "onnxruntime-genai is not installed: pip install 'raylm[export]'"

    def version(self) -> str:
        return package_version("onnxruntime-genai")

    def run(self, folder: Path, prompts: list[Prompt], max_tokens: int) -> list[Ran]:
        import onnxruntime_genai

        og: Any = onnxruntime_genai
        model: Any = og.Model(str(folder))
        tokenizer = og.Tokenizer(model)
        ends = json.loads((folder / "genai_config.json").read_text())["model"]["eos_token_id"]
        stops = set(ends if isinstance(ends, list) else [ends])
        return [_answer(og, model, tokenizer, prompt, max_tokens, stops) for prompt in prompts]


def _answer(og: Any, model: Any, tokenizer: Any, prompt: Prompt, max_tokens: int, stops: set[int]) -> Ran:
    import numpy as np

    text = prompt
    if not isinstance(text, str):
        text = str(tokenizer.apply_chat_template(json.dumps(text), add_generation_prompt=True))
    ids = [int(token) for token in tokenizer.encode(text)]
    params = og.GeneratorParams(model)
    # nothing of the model's own habits (repetition_penalty): the others are asked without, too
    params.set_search_options(
        max_length=len(ids) + max_tokens,
        do_sample=False,
        repetition_penalty=1.0,
        min_length=0,
        no_repeat_ngram_size=0,
        num_beams=1,
    )
    generator = og.Generator(model, params)
    generator.append_tokens(np.array(ids, np.int32))
    tokens: list[int] = []
    logits = []
    while not generator.is_done() and len(tokens) < max_tokens:
        logits.append(np.asarray(generator.get_logits())[0, -1])
        generator.generate_next_token()
        tokens.append(int(generator.get_next_tokens()[0]))
    answer = tokens[:-1] if tokens and tokens[-1] in stops else tokens
    return Ran(ids, len(ids), answer, str(tokenizer.decode(np.array(answer, np.int32))), top(np.stack(logits), MOST_KEPT))
