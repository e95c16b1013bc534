"""The reference: plain greedy generation, equal to a loop over the logits by hand."""

from __future__ import annotations

import numpy as np
import torch

from raylm.compress.consumers.transformers import Transformers
from raylm.model.load import load_model, load_tokenizer
from tests.model.gguf.small import small


def test_it_answers_greedily_and_tells_log_probabilities_of_every_position():
    folder = small("llama")
    tokenizer, model = load_tokenizer(str(folder)), load_model(str(folder), "float32").eval()
    talk = [{"role": "user", "content": "What is 2 plus 3?"}]
    said, plain = Transformers().run(folder, [talk, "plain text"], 6)
    assert said.prompt_ids == tokenizer("<|bos|><|user|>What is 2 plus 3?<|end|><|assistant|>")["input_ids"]
    assert (
        said.prompt_ids
        and plain.prompt_ids == tokenizer("plain text")["input_ids"]
        and said.num_prompt_tokens == len(said.prompt_ids)
    )
    ids = list(said.prompt_ids)
    assert said.tokens and said.logprobs is not None
    for position, token in enumerate(said.tokens):
        with torch.no_grad():
            nats = model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
        assert int(nats.argmax()) == token == said.logprobs.ids[position, 0]
        np.testing.assert_allclose(said.logprobs.values[position], nats[said.logprobs.ids[position]].numpy(), atol=1e-4)
        ids.append(token)
