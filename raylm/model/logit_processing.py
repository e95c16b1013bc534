"""What a model does to its logits after the output layer (scaling, soft caps), and how to switch that off.

Gemma caps logits, Cohere and Granite scale them, BART and its kin add a vector. Read from transformers' own forward functions: a
setting of the same name means something else, or nothing, in other families.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from raylm.core.errors import ConfigError


class Setting(NamedTuple):
    """One setting that changes logits."""

    name: str
    means: str
    """cap: `value * tanh(logits / value)`; times; by: division."""

    @property
    def neutral(self) -> float | None:
        """The value that changes nothing."""
        return None if self.means == "cap" else 1.0


# by the class whose forward function applies it
SETTINGS: dict[str, Setting] = {
    **dict.fromkeys(
        (
            "Gemma2ForCausalLM", "Gemma3ForCausalLM", "Gemma3nForCausalLM", "Gemma4ForCausalLM", "Gemma4UnifiedForCausalLM",
            "NanoChatForCausalLM", "T5GemmaForConditionalGeneration", "T5Gemma2ForConditionalGeneration", "VaultGemmaForCausalLM",
        ),
        Setting("final_logit_softcapping", "cap"),
    ),
    **dict.fromkeys(("CohereForCausalLM", "Cohere2ForCausalLM", "Cohere2MoeForCausalLM"), Setting("logit_scale", "times")),
    **dict.fromkeys(
        (
            "GraniteForCausalLM", "GraniteMoeForCausalLM", "GraniteMoeHybridForCausalLM", "GraniteMoeSharedForCausalLM",
            "GraniteMoeSWAForCausalLM", "GraniteSWAForCausalLM",
        ),
        Setting("logits_scaling", "by"),
    ),
    "HyperCLOVAXForCausalLM": Setting("logits_scaling", "times"),
}  # fmt: skip
# the buffer of BART, Marian, Pegasus and their kin that is added after the output layer
BIAS = "final_logits_bias"
# in any other class these may change logits, in a way that is not known here
SUSPECT = (
    "final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier", "output_multiplier", "logits_soft_cap",
    "output_logit_soft_cap",
)  # fmt: skip


class Change(NamedTuple):
    """Made of logits after the output layer: `cap * tanh(scale * logits / cap)`, without a cap `scale * logits`."""

    scale: float = 1.0
    cap: float | None = None
    places: tuple[tuple[Any, str, Any], ...] = ()
    """Objects, names and neutral values of the settings that the model's forward function reads."""
    bias_V: Any = None
    """Added to the logits before all else, beside the output layer's own."""

    @contextmanager
    def left_out(self) -> Iterator[None]:
        """Context in which the model returns what its output layer returns."""
        # past the configs' own checks: some allow no value that changes nothing
        held = [(_held(owner, name), neutral) for owner, name, neutral in self.places]
        before = [where[name] for where, name in (at for at, _ in held)]
        try:
            for (where, name), neutral in held:
                where[name] = neutral
            yield
        finally:
            for ((where, name), _), value in zip(held, before, strict=True):
                where[name] = value


def _held(owner: Any, name: str) -> tuple[dict[str, Any], str]:
    """The dict in which `owner` keeps what it calls `name`, and the key there."""
    if name in (buffers := owner.__dict__.get("_buffers") or {}):
        return buffers, name
    return owner.__dict__, (getattr(owner, "attribute_map", None) or {}).get(name, name)


def change_of(model: Any) -> Change:
    """What `model`, adapters around it or not, makes of its logits.

    Raises:
        ConfigError: something that is not known here.
    """
    # a buffer of zeros in most checkpoints, which their owners may fill
    biased = next((module for module in model.modules() if BIAS in module._buffers), None)
    if biased is not None:
        bias_1V = getattr(biased, BIAS)
        return Change(places=((biased, BIAS, bias_1V.new_zeros(())),), bias_V=bias_1V[0] if bool(bias_1V.any()) else None)
    # wrappers that cut weights derive a class of their own
    kinds = ((module, kind.__name__) for module in model.modules() for kind in type(module).__mro__)
    core, kind = next(((module, kind) for module, kind in kinds if kind in SETTINGS), (model, ""))
    config = core.config.get_text_config(decoder=True)
    if not kind:
        suspect = [name for name in SUSPECT if getattr(config, name, None) not in (None, 1.0)]
        # words that only fill up the matrix are cut off
        if getattr(config, "unpadded_vocab_size", config.vocab_size) not in (None, config.vocab_size):
            suspect.append("unpadded_vocab_size")
        if suspect:
            raise ConfigError(f"{type(model).__name__} changes its logits after the output layer ({', '.join(suspect)})")
        return Change()
    setting = SETTINGS[kind]
    value = getattr(config, setting.name)
    if value in (None, setting.neutral):
        return Change()
    owners = [config, *([core] if hasattr(core, setting.name) else [])]
    places = tuple((owner, setting.name, setting.neutral) for owner in owners)
    if setting.means == "cap":
        return Change(cap=float(value), places=places)
    return Change(scale=float(value) if setting.means == "times" else 1 / float(value), places=places)
