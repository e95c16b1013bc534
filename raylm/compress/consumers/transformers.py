"""transformers: the reference that all other programs are compared with, in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from raylm.compress.consumers.consumer import Consumer, Prompt, Ran, package_version, threads_for, top

MOST_KEPT = 4096
"""Likeliest tokens whose log-probability is kept at each position: all of most vocabularies' mass."""


class Transformers(Consumer):
    """Plain greedy generation of `AutoModelForCausalLM` with the checkpoint's own tokenizer and chat template."""

    reads: ClassVar[tuple[str, ...]] = ("hugging_face",)

    kind: Literal["transformers"] = "transformers"

    def installed(self) -> str:
        return ""

    def version(self) -> str:
        return package_version("transformers")

    def run(self, folder: Path, prompts: list[Prompt], max_tokens: int) -> list[Ran]:
        import torch
        from transformers import GenerationConfig

        from raylm.model.checkpoint import end_tokens
        from raylm.model.load import load_model, load_tokenizer

        tokenizer = load_tokenizer(str(folder))
        model: Any = load_model(str(folder), "float32").eval()
        ends = end_tokens(folder, tokenizer)
        # none of the checkpoint's own habits (temperature, repetition penalty): the others are asked without, too
        greedy = GenerationConfig(
            do_sample=False,
            max_new_tokens=max_tokens,
            eos_token_id=ends or None,
            pad_token_id=tokenizer.pad_token_id or 0,
            output_logits=True,
            return_dict_in_generate=True,
        )
        before = torch.get_num_threads()
        torch.set_num_threads(min(threads_for(folder), before))
        try:
            return [_answer(model, tokenizer, greedy, prompt, ends) for prompt in prompts]
        finally:
            torch.set_num_threads(before)


def _answer(model: Any, tokenizer: Any, greedy: Any, prompt: Prompt, ends: list[int]) -> Ran:
    import torch

    ids = prompt_ids(tokenizer, prompt)
    inputs = torch.tensor([ids], device=model.device)
    with torch.no_grad():
        made = model.generate(inputs, attention_mask=torch.ones_like(inputs), generation_config=greedy)
    tokens = made.sequences[0, len(ids) :].tolist()
    likeliest = top(torch.cat(made.logits).float().cpu().numpy(), MOST_KEPT)
    answer = tokens[:-1] if tokens and tokens[-1] in ends else tokens
    return Ran(ids, len(ids), answer, tokenizer.decode(answer, skip_special_tokens=False), likeliest)


def prompt_ids(tokenizer: Any, prompt: Prompt) -> list[int]:
    """Tokens of plain text with what the tokenizer puts around it, or of a conversation up to where the answer begins."""
    if isinstance(prompt, str):
        return list(tokenizer(prompt)["input_ids"])
    rendered = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    return list(tokenizer(rendered, add_special_tokens=False)["input_ids"])
