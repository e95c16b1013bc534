"""Configs: frozen, strict, with an identity that placement does not touch."""

from typing import Annotated, Literal

import pytest
from pydantic import Field, ValidationError

from raylm.core.config import (
    CheckpointRef,
    Config,
    CustomCard,
    Refers,
    StageConfig,
    TokensRef,
    WorkerSpec,
    card_kind,
    did_you_mean,
    digest_of,
    references,
    resolved,
)
from raylm.core.errors import ConfigError


class Card(Config):
    kind: Literal["card"] = "card"
    rows: Annotated[str, Refers(("Tokens", "Pairs"))] | None = None
    share: float = 0.5
    """A share."""


class Stage(StageConfig):
    stage: Literal["x"] = "x"
    models: list[CheckpointRef] = Field(default_factory=list)
    cards: list[Card] = Field(default_factory=list)


def test_is_frozen_and_documents_its_fields():
    card = Card()
    with pytest.raises(ValidationError):
        card.share = 0.1
    assert Card.model_fields["share"].description == "A share."


def test_unknown_key_names_the_near_one():
    with pytest.raises(ValidationError, match="Did you mean 'share'"):
        Card.model_validate({"shar": 1})


def test_a_key_of_an_earlier_version_is_refused_with_its_new_name():
    class Renamed(Card):
        renamed = {"part": "share"}

    for kind in (Renamed, type("Heir", (Renamed,), {})):
        with pytest.raises(ValidationError, match=r"unknown key\. It is called 'share' now\."):
            kind.model_validate({"part": 1})


def test_a_name_of_another_framework_is_refused_with_ours():
    class Known(Card):
        known_as = {"portion": "share", "r": "rank = ..."}

    with pytest.raises(ValidationError, match=r"unknown key\. Here it is rank = \.\.\.\."):
        type("Heir", (Known,), {"known_as": {"portion": "amount"}}).model_validate({"r": 1})
    with pytest.raises(ValidationError, match=r"Here it is amount\."):
        type("Heir", (Known,), {"known_as": {"portion": "amount"}}).model_validate({"portion": 1})


def test_identity_leaves_placement_out():
    assert Stage(workers=WorkerSpec(count=8)).fingerprint() == Stage().fingerprint()
    assert Stage(models=["a"]).fingerprint() != Stage().fingerprint()
    assert Stage().identity() == {"stage": "x", "models": [], "cards": []}


def test_identity_refuses_what_has_no_stable_form():
    with pytest.raises(ConfigError, match="no stable form"):
        Card(share=float("nan")).identity()


def test_references_are_found_however_deep():
    stage = Stage(models=["base", "sft"], cards=[Card(rows="tokens"), Card()])
    found = [(reference.path, reference.value, reference.kinds) for reference in references(stage)]
    assert found == [
        (("models", "0"), "base", ("Checkpoint",)),
        (("models", "1"), "sft", ("Checkpoint",)),
        (("cards", "0", "rows"), "tokens", ("Tokens", "Pairs")),
    ]


def test_digest_does_not_depend_on_key_order():
    assert digest_of({"a": 1, "b": [2]}) == digest_of({"b": [2], "a": 1})
    assert len(digest_of({})) == 16


def test_did_you_mean_lists_what_is_known():
    assert did_you_mean("lenght", ["length"]) == " Did you mean 'length'?"
    assert did_you_mean("zzz", ["a", "b"]) == " Known: a, b."


def test_custom_card_is_imported_or_said_to_be_missing():
    made = CustomCard(path="raylm.core.config:WorkerSpec", options={"count": 3}).card()
    assert made == WorkerSpec(count=3)
    with pytest.raises(ConfigError, match="nowhere"):
        CustomCard(path="raylm.nowhere:X").card()


class ReadsTokens(Config):
    rows: TokensRef = "tokens"


def test_what_a_custom_card_names_is_a_reference_too():
    class Asks(Config):
        tasks: list[CustomCard]

    named = CustomCard(path=f"{__name__}:ReadsTokens", options={"rows": "web"})
    found = list(references(Asks(tasks=[named, CustomCard(path="no.such:Card")])))
    assert [(ref.path, ref.value, ref.kinds) for ref in found] == [(("tasks", "0", "rows"), "web", ("Tokens",))]
    assert resolved(Asks(tasks=[named])).tasks == [ReadsTokens(rows="web")]


class Plain:
    """A card that is no Config."""

    def score(self, prompt, completion, ground_truth): ...


def test_a_card_that_is_no_config_names_nothing():
    class Asks(Config):
        rewards: list[CustomCard]

    assert list(references(Asks(rewards=[CustomCard(path=f"{__name__}:Plain")]))) == []
    assert card_kind(Plain()) == "Plain" and card_kind(CustomCard(path="a:B")) == "custom"


def test_all_unknown_keys_of_a_table_are_named_at_once():
    with pytest.raises(ValidationError) as caught:
        WorkerSpec(cout=3, notice="/a", gpus=1)
    assert [error["ctx"]["key"] for error in caught.value.errors()] == ["cout", "notice"]
    assert "It is called 'preemption_notice' now." in str(caught.value)
