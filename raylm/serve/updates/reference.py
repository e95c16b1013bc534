"""Reference answers of a served checkpoint: prompt tokens and greedy tokens from transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from raylm.core.config import Config
from raylm.model.checkpoint import end_tokens
from raylm.model.load import load_config, load_model, load_tokenizer, text_config

GREEDY_TOKENS = 16
NUM_LIKELY = 64
# asked besides the job's own prompts; the third must not open a turn of its own by what the user typed
PROBES = (
    "What is the capital of France?",
    "Count from one to ten.",
    "<|assistant|> is a word; so is </s>.",
    "naïve café, 東京, emoji 🙂, tabs\tand  two spaces",
    "def add(a, b):\n    return a + b\n",
    "x",
)


class Continued(NamedTuple):
    """What follows a prompt greedily: `tokens`, and for each place the log-probabilities of the likeliest tokens there."""

    tokens: list[int]
    likely: list[dict[int, float]]

    def nats_short(self, tokens: list[int]) -> float:
        """How much less likely than the likeliest the first of `tokens` is that differs from these; 0 where none does.
        What follows it has another beginning and cannot be compared."""
        for place, (mine, other) in enumerate(zip(self.tokens, tokens, strict=False)):
            if mine != other:
                likely = self.likely[place]
                # a token beyond the likeliest ones is at least as far away as the last of them
                last = min(likely.values())
                return likely.get(mine, last) - likely.get(other, last)
        return 0.0

    def apart(self, tokens: list[int], logprobs: list[float]) -> list[float]:
        """Absolute differences to the `logprobs` of an answer's tokens, as far as they are these."""
        found = []
        for mine, other, said, likely in zip(self.tokens, tokens, logprobs, self.likely, strict=False):
            if mine != other:
                break
            if mine in likely:
                found.append(abs(likely[mine] - said))
        return found


class Expected(NamedTuple):
    """One probe. `prompt` are the tokens that transformers' tokenizer makes of it, `greedy` what follows them."""

    text: str
    prompt: list[int]
    greedy: Continued | None


class Network(Config):
    """What config.json says that serving depends on."""

    quantized: bool
    max_len: int | None


def network(model: str) -> Network:
    """Quantization and length of the checkpoint at `model`."""
    config = load_config(model)
    length = getattr(text_config(config), "max_position_embeddings", None)
    return Network(quantized=getattr(config, "quantization_config", None) is not None, max_len=length)


def weights_gb(model: str) -> float | None:
    """GB of safetensors in the folder; None for a hub name."""
    files = list(Path(model).glob("*.safetensors"))
    return sum(file.stat().st_size for file in files) / 1e9 if files else None


def expected(model: str, texts: list[str], dtype: str, greedy: bool) -> list[Expected]:
    """What transformers makes of each text, as a chat turn where there is a template, as plain text where there is none.

    Args:
        greedy: also generate, which loads the weights into this process.
    """
    tokenizer = load_tokenizer(model)
    prompts = [_prompt_tokens(tokenizer, text) for text in texts]
    continued = _greedy(model, tokenizer, prompts, dtype) if greedy else [None] * len(prompts)
    return [Expected(*row) for row in zip(texts, prompts, continued, strict=True)]


def _prompt_tokens(tokenizer: Any, text: str) -> list[int]:
    if tokenizer.chat_template is None:
        return list(tokenizer(text)["input_ids"])
    turn = [{"role": "user", "content": text}]
    return list(tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=True, return_dict=True)["input_ids"])


def _greedy(model: str, tokenizer: Any, prompts: list[list[int]], dtype: str) -> list[Continued]:
    """What follows each prompt, one by one: padding would be one more thing that could differ."""
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    network: Any = load_model(model, dtype).eval()
    pad = network.generation_config.pad_token_id
    ends = end_tokens(Path(model), tokenizer) or None
    made = []
    for prompt in prompts:
        out = network.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False,
            max_new_tokens=GREEDY_TOKENS,
            temperature=None,
            top_p=None,
            top_k=None,
            pad_token_id=0 if pad is None else pad,
            eos_token_id=ends,
            # what the network itself says: no penalty of generation_config.json is in it, nor in an endpoint's log-probabilities
            output_logits=True,
            return_dict_in_generate=True,
        )
        made.append(Continued(out.sequences[0, len(prompt) :].tolist(), [_likely(scores_BV[0]) for scores_BV in out.logits]))
    return made


def _likely(scores_V: Any) -> dict[int, float]:
    top = scores_V.float().log_softmax(-1).topk(min(NUM_LIKELY, len(scores_V)))
    return dict(zip(top.indices.tolist(), top.values.tolist(), strict=True))
