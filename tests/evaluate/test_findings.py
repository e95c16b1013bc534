"""All that instances say, in one place: for report.json, for the page, and beside an earlier report."""

from __future__ import annotations

import json
import random
import re
from typing import ClassVar

import pytest

from raylm.core.artifact import Report
from raylm.core.config import Config
from raylm.core.errors import ArtifactError
from raylm.evaluate import figures, instances, report
from raylm.evaluate.findings import find
from raylm.evaluate.instances import Graded, means
from raylm.evaluate.intervals import bootstrap, wilson
from raylm.evaluate.previous import models_of
from raylm.evaluate.tasks.answers import Answers
from raylm.evaluate.tasks.calibration import Calibration
from raylm.evaluate.tasks.dialogue_loss import DialogueLoss
from tests.stages import context

CARDS = {"answers": Answers(rows="prompts"), "dialogue_loss": DialogueLoss(rows="dialogues")}
BETTER = {"answers": "high", "dialogue_loss": "low"}


def model(seed, share, loss):
    rng = random.Random(seed)
    right = [rng.random() < share for _ in range(60)]
    return {
        "answers": [
            Graded(
                f"q{at}",
                {"answers": float(hit)},
                {"answers": 1.0},
                {"source": "a<b" if at < 30 else "c"},
                f"what is <{at}>?",
                f"{'right' if hit else 'wrong'} <i>{at}</i>",
                7,
                0.01 * at,
            )
            for at, hit in enumerate(right)
        ],
        "dialogue_loss": [
            Graded(f"d{at}", {"dialogue_loss": loss * (5 + at) + at % 3 - 1}, {"dialogue_loss": 5.0 + at}) for at in range(40)
        ],
    }


MODELS = {"base": model(1, 0.3, 3.0), "sft": model(2, 0.9, 1.0), "policy": model(3, 0.9, 1.0)}
GRADES = {
    name: {key: value for graded in tasks.values() for key, value in means(graded).items()} for name, tasks in MODELS.items()
}


@pytest.fixture(scope="module")
def found():
    return find(MODELS, CARDS)


def test_everything_is_in_the_json(found):
    told = json.loads(json.dumps(found.plain(), allow_nan=False))
    right = sum(one.values["answers"] for one in MODELS["sft"]["answers"])
    assert told["intervals"]["sft"]["answers"] == pytest.approx(wilson(right, 60))
    losses = MODELS["base"]["dialogue_loss"]
    values, weights = ([each["dialogue_loss"] for each in column] for column in zip(*[one[1:3] for one in losses], strict=True))
    low, high = told["intervals"]["base"]["dialogue_loss"]
    assert [low, high] == pytest.approx(list(bootstrap(values, weights))) and low < 3.0 < high < low + 0.1
    pairs = [(one["metric"], one["first"], one["second"], one["winner"]) for one in told["comparisons"]]
    assert ("answers", "base", "sft", "sft") in pairs and ("dialogue_loss", "sft", "policy", "") in pairs
    assert len(pairs) == 6
    assert {(one["first"], one["second"]) for one in told["flips"]} == {("base", "sft"), ("sft", "policy")}
    assert told["slices"]["looked_at"] == 6
    (cost,) = [one for one in told["costs"] if (one["model"], one["task"]) == ("sft", "answers")]
    assert (cost["count"], cost["tokens"], cost["seconds"]) == (60, 420, pytest.approx(17.7))
    assert (cost["p50_s"], cost["p95_s"]) == (0.295, 0.5605)
    assert [one["count"] for one in told["smallest_differences"]] == [60, 40]


def test_what_a_number_of_instances_can_show_is_told_of_independent_ones():
    """60 attacks on six topics: as many as six where the attacks on a topic go the same way."""
    graded = [one._replace(facts={"cluster": str(at % 6)}) for at, one in enumerate(MODELS["sft"]["answers"])]
    found = find({"sft": {"answers": graded}}, {"answers": CARDS["answers"]})
    assert [one.count for one in found.resolutions] == [6]
    assert "6 instances are too few" in found.resolutions[0].told()


def test_the_page_shows_intervals_flips_slices_and_cost_and_no_hostile_text(found):
    page = report.page("run", GRADES | {"gzip": {"dialogue_loss": 2.0}}, BETTER, b"png", [], found)
    low, high = found.intervals["sft"]["answers"]
    assert f"{GRADES['sft']['answers']:.4f}<br><small>{low:.4g} to {high:.4g}</small>" in page
    for heading in ("Values with 95% intervals", "Comparisons, paired by instance", "Flipped instances", "Worst slices", "Cost"):
        assert heading in page
    assert "sft is better" in page and "no difference is sure" in page
    assert "6 slices were looked at" in page
    assert re.search(r"60 instances find differences in answers of \d+\.\d points", page)
    assert "&lt;i&gt;4" in page and "<i>4" not in page and "source a&lt;b" in page
    assert not re.search(r'(src|href)="(?!data:)', page)


def test_a_mark_stands_on_its_interval():
    chart = figures.interval_chart("m", "high", [("a", 0.5, wilson(10, 20)), ("gzip", 0.4, None)])
    bar, mark, alone = (float(x) for x in re.findall(r'<rect x="([\d.]+)"', chart))
    width = float(re.findall(r'width="([\d.]+)" height="8"', chart)[0])
    assert bar < mark < bar + width and bar <= alone < bar + width
    assert figures.interval_chart("m", "high", [("a", float("nan"), None)]) == ""


def test_the_terminal_says_what_is_sure_of_the_last_model(found):
    lines = report.short(found, "policy")
    assert lines[-1] == "2 of 4 differences of policy are sure"
    assert all(line.startswith("policy against base: ") for line in lines[:-1]) and len(lines) == 3


class Ece(Config):
    """A metric that is no quotient: the larger of two gaps."""

    better: ClassVar[dict[str, str]] = {"gap": "low", "answers": "high"}
    kind: str = "ece"

    def summary(self, graded):
        halves = [[one for one in graded if one.facts["source"] == name] for name in ("a<b", "c")]
        shares = [sum(one.values["answers"] for one in half) / max(len(half), 1) for half in halves]
        return {"gap": abs(shares[0] - shares[1]), "answers": means(graded)["answers"]}


def test_a_metric_that_is_no_quotient_has_an_interval_and_is_not_compared_as_one():
    found = find({name: {"ece": tasks["answers"]} for name, tasks in MODELS.items()}, {"ece": Ece()})
    own = Ece().summary(MODELS["base"]["answers"])["gap"]
    low, high = found.intervals["base"]["gap"]
    assert 0 <= low < high and low < own + 0.1
    assert {one.metric for one in found.compared} == {"answers"}


@pytest.mark.parametrize("card", [Answers(rows="prompts"), Calibration(rows="prompts", name="answers")])
def test_instances_of_an_earlier_report_that_lack_a_metric_have_no_interval_of_it(card):
    """The task was called otherwise then, or did not ask for it: nothing is compared, and nothing breaks."""
    (kind,) = {type(card).__name__}
    before = {kind: [Graded(f"q{at}", {"other": 1.0}, {"other": 1.0}, {"source": "a"}) for at in range(5)]}
    values = dict.fromkeys(card.better, 1.0)
    now = {kind: [Graded(f"q{at}", values, values, {"confidence": "0.8"}) for at in range(5)]}
    found = find({"m of first before": before, "m": now}, {kind: card}, {"m of first before": "m"})
    assert found.intervals["m of first before"] == {}
    assert set(found.intervals["m"]) == set(card.better) and found.compared == []


def test_an_earlier_report_is_paired_by_instance(tmp_path):
    ctx = context(tmp_path, "report")
    for name in ("sft", "old"):
        instances.write(ctx.out / "instances", f"{name}-answers.jsonl", MODELS["base"]["answers"])
    files = {name: {"answers": f"instances/{name}-answers.jsonl"} for name in ("sft", "old")}
    ctx.out.write_json("report.json", {"instances": files})
    made = ctx.commit(Report, facts={"model": "old"})
    earlier = models_of(made, "policy", list(MODELS))
    assert {name: one.against for name, one in earlier.items()} == {
        "sft of report before": "sft",
        "old of report before": "policy",
    }
    found = find(
        {name: one.tasks for name, one in earlier.items()} | MODELS, CARDS, {name: one.against for name, one in earlier.items()}
    )
    assert len([one for one in found.compared if one.first in earlier]) == 2
    (one,) = [one for one in found.compared if one.first == "old of report before"]
    assert (one.second, one.num_pairs, one.winner) == ("policy", 60, "policy")
    assert not any(one.second in earlier for one in found.compared)
    other = context(tmp_path, "without")
    other.out.write_json("report.json", {"grades": {}})
    with pytest.raises(ArtifactError, match="keeps no instances"):
        models_of(other.commit(Report, facts={}), "policy", [])
