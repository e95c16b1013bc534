"""Variants of checkpoints: a reference accepts what its stage can use, and refuses the rest by name."""

from __future__ import annotations

from typing import Annotated

from raylm.core.artifact import Checkpoint, Manifest, open_artifact
from raylm.core.config import Config, Makes, Refers, references
from raylm.core.variants import refusal, variant_of_facts
from tests.stages import context


class Asks(Config):
    any: Annotated[str, Refers(("Checkpoint",))] = "a"
    both: Annotated[str, Refers(("Checkpoint",), ("causal", "quantized"))] | None = "b"
    many: list[Annotated[str, Refers(("Checkpoint", "Tokens"), ("causal",))]] = ["c"]


def test_a_reference_accepts_its_variants_and_what_is_not_known_yet():
    anything, both, many = references(Asks())
    gguf, rewards = Makes("Checkpoint", "export:gguf"), Makes("Checkpoint", "reward")
    assert anything.accepts(gguf) and not both.accepts(gguf) and not both.accepts(rewards)
    assert both.accepts(Makes("Checkpoint", "quantized")) and both.accepts(Makes("Checkpoint"))
    assert many.accepts(Makes("Checkpoint", "causal")) and not many.accepts(Makes("Checkpoint", "masked"))
    assert many.accepts(Makes("Tokens")) and not both.accepts(Makes("Tokens"))
    assert str(gguf) == "Checkpoint (export:gguf)" and str(Makes("Checkpoint", "causal")) == "Checkpoint"


def test_a_refusal_says_what_it_is_and_what_to_do():
    said, remedy = refusal("export:gguf", ("causal",))
    assert said == "files of gguf for another program (export:gguf); asked for is causal" and "exported" in remedy
    assert "one number per sequence" in refusal("reward", ("causal", "quantized"))[0]


def test_manifests_of_earlier_versions_have_their_variant_in_their_facts(tmp_path):
    old = context(tmp_path, "old").commit(Checkpoint, facts={"objective": "masked_lm"})
    text = (tmp_path / "old" / "manifest.json").read_text()
    (tmp_path / "old" / "manifest.json").write_text(text.replace('  "variant": "",\n', ""))
    assert "variant" not in (tmp_path / "old" / "manifest.json").read_text()
    assert open_artifact(old.folder).made == Makes("Checkpoint", "masked")
    assert Manifest.model_validate_json(text).variant == ""
    assert variant_of_facts({"quantized": True, "objective": "dpo"}) == "quantized"
    assert variant_of_facts({"objective": "dpo"}) == variant_of_facts({}) == "causal"
    new = context(tmp_path, "new").commit(Checkpoint, variant="reward", facts={"objective": "next_token"})
    assert new.made.variant == "reward"


def test_a_variant_that_this_version_does_not_know_is_refused_in_words():
    words, remedy = refusal("diffusion", ("causal",))
    assert words == "weights of a kind that this version does not know (diffusion); asked for is causal" and remedy
