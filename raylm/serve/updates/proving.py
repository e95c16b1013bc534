"""Asks one replica, at its own address, what its checkpoint must say: before clients get it, and while a canary stands.

prompts (chat template) -> greedy answers and their log-probabilities -> the tokens that end an answer
"""

from __future__ import annotations

from typing import Any

from raylm.core.errors import StageError
from raylm.inference.client import connect
from raylm.serve.directory import Address
from raylm.serve.engine.inner import INNER
from raylm.serve.updates import parity
from raylm.serve.updates.history import Proof
from raylm.serve.updates.reference import Continued, Expected

ASK_S = 60.0
BIAS = 100.0
"""Makes a token the likeliest one, whatever the weights say."""


def prove(address: Address, proof: Proof) -> None:
    """Compare a replica with what transformers says of its checkpoint, as at the first start of an endpoint. Blocks.

    Raises:
        StageError: a prompt, an answer, or what ends an answer differs; or nothing came.
    """
    from openai import OpenAIError

    host = f"[{address.host}]" if ":" in address.host else address.host
    where = f"replica {address.replica}"
    if address.dtype != proof.dtype and proof.probes:
        raise StageError(f"it computes in {address.dtype}, the reference was computed in {proof.dtype}", where=where)
    client = connect(f"http://{host}:{address.port}/v1", None, ASK_S, {INNER: address.secret})
    try:
        with client:
            expected = [
                Expected(each.text, each.prompt, Continued(each.greedy, each.likely) if each.greedy else None)
                for each in proof.turns
            ]
            verdict = parity.compare(client, address.model, expected, proof.logprobs)
            parity.refuse_unequal(verdict, address.dtype, proof.quantized, where)
            for end in proof.ends:
                _ends(client, address.model, proof.turns[0].prompt, end, where)
    except OpenAIError as cause:
        raise StageError(f"it does not answer as it should: {cause}", where=where) from cause


def _ends(client: Any, model: str, prompt: list[int], end: int, where: str) -> None:
    """Raises StageError where an answer goes on behind a token that ended the answers it was trained on."""
    answer = client.completions.create(model=model, prompt=prompt, max_tokens=2, temperature=0, logit_bias={str(end): BIAS})
    if answer.choices[0].finish_reason != "stop":
        raise StageError(
            f"an answer goes on behind token {end}, which ends one in training",
            where=where,
            next="compare eos_token_id in generation_config.json and the end of a turn in the chat template",
        )
