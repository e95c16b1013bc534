"""What a plan says of the roles of an rl stage: memory of each, seconds and price of an iteration, and what cannot be."""

from __future__ import annotations

import re
from typing import ClassVar

import pytest

from raylm.core.config import Role
from raylm.core.errors import PlanError
from raylm.rl.algorithms.grpo import Grpo
from raylm.rl.config import RL
from raylm.rl.forecast import forecast_reward, forecast_roles
from raylm.trainer.forecast.load import reference_bytes
from raylm.trainer.forecast.report import Known, forecast
from tests.rl.samples import config
from tests.trainer.forecast.test_speed import L8, L70

KNOWN = Known(L8, 2560, 1024, 200)


class Leashed(Grpo):
    """GRPO with a reference."""

    needs: ClassVar[tuple[str, ...]] = ("reference",)


def stage(device="h100", count=8, generators=4, gpus=1.0, **table) -> RL:
    usual = {
        "iterations": 200, "prompts_per_iteration": 128, "max_tokens": 2048, "dtype": "bfloat16", "micro_batch": 1,
        "activation_checkpointing": "full", "workers": {"count": count, "gpus": 1, "device": device},
        "generator": {"count": generators, "gpus": gpus},
    }  # fmt: skip
    return config(**usual | table)


def seconds(line: str) -> dict[str, float]:
    return {name: float(value) for name, value in re.findall(r"(generation|update|weights) ([\d.]+)", line)} | {
        "iteration": float(re.findall(r"an iteration ([\d.]+) s", line)[0])
    }


def test_generators_iterations_and_the_price_of_all_gpus_are_told():
    generators, iteration = forecast_roles(stage(), KNOWN, "policy")
    assert re.match(r"each of 4 generators: 16\.1 GB of weights, [\d.]+ to compute, [\d.]+ for keys and values", generators)
    parts = seconds(iteration)
    assert parts["iteration"] == pytest.approx(parts["generation"] + parts["update"] + parts["weights"], rel=0.02)
    assert "on 12 GPUs" in iteration
    hours = float(re.findall(r"iterations ([\d.]+) h", iteration)[0])
    dollars = float(re.findall(r"\$([\d,]+)", iteration)[0].replace(",", ""))
    assert dollars == pytest.approx(hours * 12 * 2.6, rel=0.02) and hours == pytest.approx(
        200 * parts["iteration"] / 3600, rel=0.02
    )


def test_more_generators_are_faster_and_trainers_on_cpus_say_nothing_of_them():
    few, many = (seconds(forecast_roles(stage(generators=count), KNOWN, "policy")[-1]) for count in (4, 8))
    assert many["generation"] < 0.7 * few["generation"] and many["update"] == few["update"]
    assert forecast_roles(stage(gpus=0.0), KNOWN, "policy") == []


def test_what_cannot_fit_is_refused_with_its_numbers():
    with pytest.raises(PlanError, match=r"has 68\.0 GB of h100, it needs 141\.1 for weights"):
        forecast_roles(stage(), KNOWN._replace(config=L70), "policy")
    assert forecast_roles(stage("b200", 64, 32), KNOWN._replace(config=L70), "policy")
    with pytest.raises(PlanError, match=r"generator\.gpus = 2, its engine is on 1 of them"):
        forecast_roles(stage(gpus=2.0), KNOWN, "policy")
    with pytest.raises(PlanError, match="policy needs"):
        forecast(stage(count=1), KNOWN, "policy")


def test_ranks_and_generators_on_the_same_gpus_have_their_part_of_them_each():
    shared = {"workers": {"count": 8, "gpus": 0.5, "device": "h100"}, "generator": {"count": 8, "gpus": 0.5}}
    assert forecast(stage(**shared), KNOWN, "policy")
    generators, iteration = forecast_roles(stage(**shared), KNOWN, "policy")
    cache = float(re.findall(r"([\d.]+) for keys and values", generators)[0])
    whole = float(re.findall(r"([\d.]+) for keys and values", forecast_roles(stage(), KNOWN, "policy")[0])[0])
    assert cache == pytest.approx(whole - 0.85 * 40, abs=0.2) and "on 8 GPUs" in iteration
    shared["workers"] = {"count": 4, "gpus": 0.5, "device": "h100"}
    with pytest.raises(PlanError, match=r"h100 has 80 GB, of which 0\.5 is a rank's"):
        forecast(stage(**shared), KNOWN, "policy")


def test_a_model_that_scores_has_a_line_and_must_fit():
    class Card:
        dtype = "auto"

        def role(self):
            return Role(count=2, gpus=1.0)

    said = forecast_reward(Card(), L8, "h100", 2560, "policy.reward_quality")
    assert said.startswith("policy.reward_quality: 2 x 16.1 GB of weights")
    with pytest.raises(PlanError, match=r"reward_quality: a process has 68\.0 GB of h100, it needs 141\.1 GB for weights"):
        forecast_reward(Card(), L70, "h100", 2560, "policy.reward_quality")


def test_a_reference_is_a_model_more_on_the_ranks_and_a_pass_more():
    plain, leashed = stage(), stage().model_copy(update={"algorithm": Leashed()})
    # eight billion weights of four bytes over eight ranks
    assert reference_bytes(plain, L8, 8) == 0 and reference_bytes(leashed, L8, 8) == pytest.approx(4 * 8.03e9 / 8, rel=0.01)
    assert any("4.02 GB are of the reference" in line for line in forecast(leashed, KNOWN, "policy"))
    assert (
        seconds(forecast_roles(leashed, KNOWN, "policy")[-1])["update"]
        > seconds(forecast_roles(plain, KNOWN, "policy")[-1])["update"]
    )
    beside_adapter = stage(adapter={"rank": 8}).model_copy(update={"algorithm": Leashed()})
    assert reference_bytes(beside_adapter, L8, 8) == 0, "it is the model without its adapter"


def test_a_critic_is_a_model_that_is_trained_beside_the_policy():
    cfg = stage()
    alone = forecast(cfg, KNOWN, "policy")
    critic = cfg.model_copy(update={"algorithm": None})
    both = forecast(cfg, KNOWN._replace(critic=(critic, L8)), "policy")
    total, more = (float(lines[1].split(" GB")[0]) for lines in (alone, both))
    # weights of four bytes and two moments of four over eight ranks
    assert more - total == pytest.approx(12 * 8.03 / 8, rel=0.02)
    assert any("12.05 GB are of the critic" in line for line in both)
    step, slower = (float(lines[-1].split(" s per step")[0]) for lines in (alone, both))
    assert 2 < slower / step < 2.5
    with pytest.raises(PlanError, match="policy needs"):
        forecast(stage(count=2), KNOWN._replace(critic=(critic, L70)), "policy")
