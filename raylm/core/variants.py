"""The variants of a Checkpoint, which of them a stage can use, and the words for one that it cannot.

causal           predicts the next token
masked           an encoder with an output layer over tokens (BERT)
seq2seq          encoder and decoder (T5)
reward           one number per sequence
classifier       one number per class and sequence
quantized        rounded for an engine: its matrices can be neither updated nor rounded again
export:<format>  files for another program (`export:gguf`): no stage reads them
"""

from __future__ import annotations

from typing import Any

GENERATES = ("causal", "quantized")
"""Those from which an engine draws tokens."""
TRAINABLE = ("causal", "masked", "seq2seq", "reward", "classifier")
VALUED = ("reward", "classifier")
"""Those with a head of values or labels in place of a vocabulary."""
LANGUAGE_MODELS = ("causal", "masked", "seq2seq")

_WORDS = {
    "causal": ("a language model that predicts the next token", "name another checkpoint"),
    "masked": ("an encoder that predicts masked tokens", "name a checkpoint that predicts the next token"),
    "seq2seq": ("an encoder-decoder", "name a checkpoint that predicts the next token"),
    "reward": ("a reward model: one number per sequence, no tokens", "name the language model; a reward scores its answers"),
    "classifier": ("a sequence classifier: no tokens", "name the language model"),
    "quantized": (
        "quantized weights: only norms and embeddings would move, and matrices be rounded a second time",
        "start from the weights that it compresses, and compress last",
    ),
    "export": ("files of {format} for another program", "name the checkpoint that was exported"),
}
# objectives of checkpoints made before the manifest had a variant
_OLD_OBJECTIVES = {"masked_lm": "masked", "seq2seq": "seq2seq"}


def refusal(variant: str, accepted: tuple[str, ...]) -> tuple[str, str]:
    """What is wrong with a Checkpoint of this variant, and what to do; for a message that begins with its name."""
    family, _, form = variant.partition(":")
    words, remedy = _WORDS.get(family, ("weights of a kind that this version does not know", "name another checkpoint"))
    return f"{words.format(format=form)} ({variant}); asked for is {' or '.join(accepted)}", remedy


def variant_of_facts(facts: dict[str, Any]) -> str:
    """Variant of a Checkpoint whose manifest says none."""
    if facts.get("quantized"):
        return "quantized"
    return _OLD_OBJECTIVES.get(str(facts.get("objective")), "causal")
