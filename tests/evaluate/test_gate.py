"""Measured values and limits: which of them keep a model from being served."""

from __future__ import annotations

import math
from typing import ClassVar

import pytest

from raylm.core.config import Config
from raylm.evaluate.config import Evaluate
from raylm.evaluate.gate import Bound, failures, never, said, unlikely
from raylm.evaluate.instances import Graded, means

BETTER = {"loss": "low", "answers": "high"}


class Both(Config):
    better: ClassVar[dict[str, str]] = BETTER


class Perplexity(Config):
    """e to the mean: no quotient of sums."""

    better: ClassVar[dict[str, str]] = {"ppl": "low"}

    def summary(self, graded):
        return {"ppl": math.exp(means(graded)["ppl"])}


CARDS = {name: Both() for name in BETTER} | {"ppl": Perplexity()}


@pytest.mark.parametrize(
    ("measured", "gate", "said"),
    [
        ({"loss": 1.0, "answers": 0.5}, {"loss": 1.0, "answers": 0.5}, []),
        ({"loss": 1.1}, {"loss": 1.0}, ["loss is 1.1, at most 1 is asked"]),
        ({"answers": 0.4}, {"answers": 0.5}, ["answers is 0.4, at least 0.5 is asked"]),
        ({"answers": float("nan")}, {"answers": 0.5}, ["answers is nan, at least 0.5 is asked"]),
        ({"loss": float("nan")}, {"loss": 9.0}, ["loss is nan, at most 9 is asked"]),
        ({"loss": 9.0}, {}, []),
    ],
)
def test_a_gate_closes_on_what_is_worse_than_its_limit(measured, gate, said):
    assert failures(measured, gate, BETTER) == said


def test_a_gate_on_what_no_task_measures_is_refused():
    with pytest.raises(ValueError, match=r"no task measures\. Did you mean 'answers'"):
        Evaluate(stage="evaluate", models=["base"], tasks=[{"kind": "answers", "rows": "prompts"}], gate={"answer": 0.5})


def graded(right, count, model="m", lost=0, won=0):
    """A model with `right` of `count`; and `base`, of which it lost and won so many."""
    own = [Graded(str(at), {"answers": float(at < right)}, {"answers": 1.0}) for at in range(count)]
    base = [float(at < right) for at in range(count)]
    base[:won], base[count - lost :] = [0.0] * won, [1.0] * lost
    other = [one._replace(values={"answers": hit}) for one, hit in zip(own, base, strict=True)]
    return {model: {"answers": own}, "base": {"answers": other}}


def judged(limit, right, count, lost=0, won=0):
    rows = graded(right, count, lost=lost, won=won)
    return failures({"answers": right / count}, {"answers": Bound(**limit)}, BETTER, "m", rows, CARDS)


def test_the_same_value_passes_with_enough_rows_and_not_with_few():
    """40 % of 20: Wilson's interval begins at 0.219; of 200: at 0.335."""
    limit = {"at_least": 0.3, "confidence": 0.95}
    assert judged(limit, 8, 20) == ["answers lies between 0.2188 and 0.6134 with 95% confidence, at least 0.3 is asked"]
    assert judged(limit, 80, 200) == []
    assert judged({"at_least": 0.3, "confidence": 0.5}, 8, 20) == []


def test_a_model_must_not_be_below_another_one_on_the_same_instances():
    assert judged({"not_below": "base", "by": 0.02}, 100, 200) == []
    assert judged({"not_below": "base", "by": 0.0}, 100, 200) != []
    (why,) = judged({"not_below": "base", "by": 0.02}, 100, 200, lost=9, won=5)
    assert why == "answers differs from base's by -0.05852 to +0.01891 with 95% confidence, at most 0.02 below it is asked"
    assert judged({"not_below": "base", "by": 0.02}, 100, 200, lost=1, won=20) == []
    missing = failures({"answers": 0.5}, {"answers": Bound(not_below="base")}, BETTER, "m", {"m": graded(1, 2)["m"]}, CARDS)
    assert missing == ["answers was measured of base on no instance that m was asked too"]


def test_limits_of_losses_are_ends_of_bootstrap_intervals():
    rows = [Graded(str(at), {"loss": 1.0 + at % 2}, {"loss": 1.0}) for at in range(100)]
    loss = {"m": {"loss": rows}}
    assert failures({"loss": 1.5}, {"loss": Bound(at_most=1.65)}, BETTER, "m", loss, CARDS) == []
    assert len(failures({"loss": 1.5}, {"loss": Bound(at_most=1.55)}, BETTER, "m", loss, CARDS)) == 1
    # 20 of the 100 are worse by one: the interval of the difference ends near 0.28
    worse = {
        "m": {"loss": [one._replace(values={"loss": one.values["loss"] + (at < 20)}) for at, one in enumerate(rows)]},
        "base": loss["m"],
    }
    assert failures({"loss": 1.7}, {"loss": Bound(not_above="base", by=0.3)}, BETTER, "m", worse, CARDS) == []
    assert len(failures({"loss": 1.7}, {"loss": Bound(not_above="base", by=0.22)}, BETTER, "m", worse, CARDS)) == 1


def evaluate(gate, **more):
    task = {"kind": "answers", "rows": "prompts", "num_rows": 100}
    return Evaluate.model_validate({"stage": "evaluate", "models": ["base", "sft"], "tasks": [task], "gate": gate} | more)


def test_limits_that_no_model_could_hold_are_refused():
    assert evaluate({"answers": {"at_least": 0.9}}).gate["answers"] == Bound(at_least=0.9)
    assert evaluate({"answers": 0.3}).gate["answers"] == 0.3
    with pytest.raises(ValueError, match=r"cannot be shown with 100 instances: even if all count, the interval begins at 0\.963"):
        evaluate({"answers": {"at_least": 0.97}})
    assert never("answers", Bound(at_least=0.97), 200, True) == ""
    # the rule of three, a little wider: none of 50 is up to 7.1 % of all
    assert "even if none counts, the interval ends at 0.071" in never("jailbreak", Bound(at_most=0.05), 50, True)
    assert never("jailbreak", Bound(at_most=0.05), 80, True) == ""
    assert "needs two instances" in never("loss", Bound(at_most=0.97), 1, False)


def test_a_model_is_not_held_against_itself():
    with pytest.raises(ValueError, match="model 'sft' is named twice"):
        evaluate({"answers": {"not_below": "sft"}}, models=["sft", "sft"])


@pytest.mark.parametrize(
    ("gate", "said"),
    [
        ({"at_most": 0.3}, "of this metric high is better, so a limit is at_least or not_below"),
        ({"at_least": 0.3, "not_below": "base"}, "not at_least and not_below"),
        ({}, "not none"),
        ({"not_below": "sft"}, "no model before the last"),
        ({"at_least": 0.3, "by": 0.1}, "put it into at_least"),
        ({"at_least": 0.3, "confidence": 1.0}, "less than 1"),
    ],
)
def test_limits_that_say_nothing_are_refused(gate, said):
    with pytest.raises(ValueError, match=said):
        evaluate({"answers": gate})


def test_a_limit_that_an_equal_model_would_seldom_hold_is_warned_of():
    """100 instances, 10 lost and 10 won: the interval reaches 0.09 below 0."""
    assert "reaches 0.090 below 0 where 20% of the answers differ" in unlikely("answers", Bound(not_below="base", by=0.02), 100)
    assert unlikely("answers", Bound(not_below="base", by=0.02), 3000) == ""
    assert unlikely("answers", Bound(at_least=0.3), 10) == ""


def test_limits_in_words():
    assert said("answers", 0.3) == "answers 0.3"
    assert said("answers", Bound(at_least=0.3)) == "answers at least 0.3 (95% sure)"
    assert said("loss", Bound(not_above="base", by=0.02, confidence=0.9)) == "loss at most 0.02 worse than base (90% sure)"


def test_a_metric_that_is_no_quotient_is_judged_by_its_own_interval():
    """Perplexities of nats between 1 and 2: e^1.5 is 4.5, its interval a good half wide. Nats themselves would pass at most 3."""
    rows = [Graded(str(at), {"ppl": 1.0 + at % 11 / 10}, {"ppl": 1.0}) for at in range(110)]
    better_rows = [one._replace(values={"ppl": one.values["ppl"] - 0.1}) for one in rows]
    models = {"base": {"ppl": rows}, "m": {"ppl": better_rows}}
    measured = {"ppl": math.exp(means(better_rows)["ppl"])}

    def judged(**limit):
        return failures(measured, {"ppl": Bound(**limit)}, {"ppl": "low"}, "m", models, CARDS)

    assert judged(at_most=4.5) == []
    (why,) = judged(at_most=4.2)
    assert why.startswith("ppl lies between 3.8")
    # 4.06 against 4.48 on the same instances: it is always less
    assert judged(not_above="base") == []
    assert failures(measured, {"ppl": Bound(not_above="m")}, {"ppl": "low"}, "base", models, CARDS) != []
    assert "the other kind" in judged(at_least=1.0)[0]


def test_a_loss_that_never_varied_opens_no_gate():
    own = {"m": {"loss": [Graded(str(at), {"loss": 2.0}, {"loss": 1.0}) for at in range(9)]}}
    (why,) = failures({"loss": 2.0}, {"loss": Bound(at_most=3.0)}, BETTER, "m", own, CARDS)
    assert why == "loss came to the same on all instances, or has one alone: nothing says how far it may vary"
    # a metric that is no quotient neither
    ppl = [Graded(str(at), {"ppl": 1.0}, {"ppl": 1.0}) for at in range(9)]
    (why,) = failures({"ppl": math.e}, {"ppl": Bound(at_most=3.0)}, {"ppl": "low"}, "m", {"m": {"ppl": ppl}}, CARDS)
    assert "nothing says how far it may vary" in why
