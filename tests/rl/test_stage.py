"""The rl stage through Ray and vLLM: weights in step, deaths and resumes without effect."""

from __future__ import annotations

import os
import signal

import pytest

from raylm.core.artifact import Checkpoint, Prompts
from raylm.core.errors import ConfigError
from raylm.core.metrics import read_metrics
from raylm.core.storage import Folder
from raylm.data.shards import read_parquet
from raylm.inference.generator import Completion
from raylm.inference.pool import hold_pool
from raylm.parallel.group.driver import hold_ranks
from raylm.rl.config import RL
from raylm.rl.reward_workers import RewardWorkers
from raylm.rl.sample_ledger import SAMPLES
from raylm.rl.stage import read_prompts, run
from raylm.rl.types import Prompt
from raylm.trainer.ledger import LEDGER
from tests.model.tiny import tiny_checkpoint
from tests.rows import make_rows
from tests.stages import context

pytestmark = [pytest.mark.ray, pytest.mark.vllm]
REWARD = {"kind": "custom", "path": "tests.rl.share:Share"}


def config(**table) -> RL:
    usual = {
        "stage": "rl",
        "prompts": "prompts",
        "model": "base",
        "rewards": [REWARD],
        "iterations": 4,
        "prompts_per_iteration": 4,
        "algorithm": {"kind": "grpo", "num_generations": 6},
        "max_tokens": 8,
        "micro_batch": 4,
        "save_every": 2,
        "held_out_prompts": 4,
        "optimizer": {"lr": 3e-3, "weight_decay": 0.0, "warmup": 0.0, "schedule": "constant"},
        "workers": {"count": 2},
    }
    return RL(**usual | table)


@pytest.fixture(scope="module")
def root(tmp_path_factory, workers):
    """A job's folder with prompts, a base model, and the policy of an undisturbed run."""
    at = tmp_path_factory.mktemp("job")
    rows = [{"tokens": [1, 3, 70 + 7 * row, 90 + row, 4], "messages": "[]", "ground_truth": None} for row in range(14)]
    make_rows(at, "prompts", Prompts, rows, vocab=300)
    base = context(at, "base")
    tiny_checkpoint(base.out.uri, vocab=300, layers=1)
    base.commit(Checkpoint, facts={})
    watched = config(watch={"sinks": [{"kind": "tensorboard"}]}, check_export={"vllm": True})
    run(watched, context(at, "policy", watched, workers))
    yield at
    # the group of ranks stays for the next module
    workers.keep({"ranks:"})


def rewards(root, name):
    return [row["reward"] for row in read_metrics(Folder(root / name))]


def test_generator_and_trainer_hold_the_same_weights_in_every_iteration(root):
    rows = read_metrics(Folder(root / "policy"))
    assert [row["step"] for row in rows] == [0, 1, 2, 3]
    assert max(abs(row["mismatch_kl"]) for row in rows) < 1e-5
    assert all(row["finite"] and row["unscored"] == 0 for row in rows)
    assert min(row["grad_norm"] for row in rows) > 0


def test_trainer_transformers_and_vllm_say_the_same_of_the_exported_policy(root):
    found = context(root, "reader").open("policy").facts["export"]
    assert found["nats"] < 1e-5 and found["vllm_nats"] < 1e-4 and found["vllm_dtype"] == "float32"
    assert found["tokens"] == found["vllm_tokens"] == 4 * found["samples"]


def test_the_policy_is_another_and_loads(root):
    from transformers import AutoModelForCausalLM

    made = context(root, "reader").open("policy")
    old, new = (AutoModelForCausalLM.from_pretrained(root / name).state_dict() for name in ("base", "policy"))
    assert old.keys() == new.keys()
    assert max(float((new[name] - old[name]).abs().max()) for name in old) > 1e-3
    assert made.metrics["reward_last"] > made.metrics["reward_first"]
    assert made.metrics.keys() >= {"held_out_reward_before", "held_out_reward_after"}


def test_a_run_is_watched_and_accounted_for_like_training(root):
    policy = context(root, "reader").open("policy")
    assert list((root / "policy").rglob("events.out.tfevents*")) and policy.metrics["goodput"] > 0
    page = (root / "policy" / "report.html").read_text()
    assert "first reward" in page and "data:image/png;base64," in page
    rows = read_metrics(policy.folder)
    assert [row["version"] for row in rows] == [0, 1, 2, 3] and rows[-1]["optimizer_steps"] == 4
    assert all(row["tokens_per_s"] > 0 and row["memory_gb"] > 0 for row in rows)
    ledger = read_parquet(policy.folder, LEDGER).to_pylist()
    # the third iteration reaches over the end of an epoch and asks one prompt once, which it would have asked twice
    assert [sum(row["step"] == step for row in ledger) for step in range(4)] == [4, 4, 3, 4]
    assert any(row["trained"] for row in ledger) and policy.facts["parameters"] > 0


@pytest.mark.parametrize("kind", ["qlora", pytest.param("lora", marks=pytest.mark.long)])
def test_an_adapter_reaches_the_generator_merged(root, workers, kind):
    """Of a base in 4 bits it is what these stand for that goes there too, before the first draw."""
    cfg = config(adapter={"kind": kind, "rank": 4}, iterations=2, held_out_prompts=0)
    made = run(cfg, context(root, f"adapted-{kind}", cfg, workers))
    rows = read_metrics(made.folder)
    assert max(abs(row["mismatch_kl"]) for row in rows) < 1e-5 and min(row["grad_norm"] for row in rows) > 0
    assert made.folder.exists("adapter/adapter_model.safetensors")


def test_a_trainer_killed_between_iterations_leaves_no_trace(root, workers):
    """Killed after iteration 3 of 4: the new group starts at the checkpoint of iteration 2, and draws what it drew."""
    ctx = context(root, "killed", config(), workers)
    pids, killed, log = hold_ranks(workers, config().workers).pids(), [], ctx.log

    def log_and_kill(step, **values):
        log(step, **values)
        if step == 2 and not killed:
            killed.append(pids[1])
            os.kill(pids[1], signal.SIGKILL)

    ctx.log = log_and_kill
    run(config(), ctx)
    assert killed
    assert rewards(root, "killed") == rewards(root, "policy")


def test_a_resumed_run_earns_what_the_uninterrupted_did(root, workers):
    class Stopped(Exception):
        pass

    ctx = context(root, "resumed", config(), workers)

    log = ctx.log

    def stop(step, **values):
        log(step, **values)
        if step == 2:
            raise Stopped

    ctx.log = stop
    with pytest.raises(Stopped):
        run(config(), ctx)
    run(config(), context(root, "resumed", config(), workers))
    assert rewards(root, "resumed") == rewards(root, "policy")


def test_a_generator_that_is_killed_in_the_middle_of_a_draw_leaves_no_trace(root, workers, capsys):
    import threading

    import ray

    ctx = context(root, "bereft", config(), workers)
    killed, log = [], ctx.log

    def log_and_kill(step, **values):
        log(step, **values)
        if step == 1 and not killed:
            (generator,) = hold_pool(workers, config().generator)._actors
            pid = ray.get(generator.__ray_call__.remote(lambda self: os.getpid()))
            killed.append(threading.Timer(0.02, os.kill, (pid, signal.SIGKILL)))
            killed[0].start()

    ctx.log = log_and_kill
    run(config(), ctx)
    assert "a fresh one takes the newest weights and goes on (1)" in capsys.readouterr().err
    # after each transfer it says of a few prompts what the trainer says
    nats, counts = (pool := hold_pool(workers, config().generator)).probe_nats(), pool.counts()
    assert nats is not None and nats < 1e-4 and counts["generators_refused"] == 0
    calm, rough = (read_metrics(Folder(root / name)) for name in ("policy", "bereft"))
    for name in ("reward", "loss", "grad_norm", "mismatch_kl"):
        assert [row[name] for row in rough] == pytest.approx([row[name] for row in calm], rel=1e-5, abs=1e-7)


def judged(workers, ground_truths, **table):
    """Values and kinds of failure of two completions to a prompt for each ground_truth, which says what the reward does."""
    workers.ensure()
    reward_workers = RewardWorkers(config(**table), workers)
    prompts = [Prompt(row, [1], "[]", ground_truth) for row, ground_truth in enumerate(ground_truths)]
    answers = [[Completion([5], [-1.0], "ab1!", "stop"), Completion([5], [-1.0], "!!", "length")]] * len(prompts)
    found = reward_workers.score(prompts, answers)
    assert [rollout.trajectory.finished for rollout in found] == [True, False] * len(prompts)
    return [rollout.score.value if rollout.score else rollout.unscored.kind for rollout in found]


def test_a_reward_that_hangs_or_crashes_costs_its_prompt_alone(workers):
    found = judged(workers, [None, "hang", None, "crash", None], reward_timeout_s=4.0)
    assert found == [0.5, 0.0, *["timed_out"] * 2, 0.5, 0.0, *["died"] * 2, 0.5, 0.0]


def test_a_reward_that_always_ends_its_process_is_not_started_for_ever(workers):
    reward = {**REWARD, "options": {"scale": 2.0}}
    found = judged(workers, ["crash"] * 6, rewards=[reward], reward_workers=1)
    assert found == ["died"] * 4 + ["not_asked"] * 8


def test_a_reward_that_needs_a_truth_is_refused_where_there_is_none(root, workers):
    cfg = config(rewards=[{"kind": "answer"}])
    with pytest.raises(ConfigError, match="needs a ground truth"):
        run(cfg, context(root, "untrue", cfg, workers))


def test_prompts_are_read_in_order(root):
    found = read_prompts(context(root, "reader").open("prompts"), "held_out")
    assert [prompt.row for prompt in found] == [0, 1, 2, 3]
    assert found[0].tokens == [1, 3, 140, 100, 4]


def test_a_student_is_taught_on_what_it_draws_itself(root, workers):
    """No reward is asked. The teacher lies on the ranks; what is learned goes to the generator."""
    tiny_checkpoint(root / "teacher", vocab=300, layers=2, seed=5)
    algorithm = {"kind": "distill", "teacher": f"{root}/teacher", "num_generations": 4, "top_k": 32}
    cfg = config(algorithm=algorithm, rewards=[], iterations=6)
    made = run(cfg, context(root, "taught", cfg, workers))
    rows = read_metrics(Folder(root / "taught"))
    assert max(abs(row["mismatch_kl"]) for row in rows) < 1e-5 and [row["version"] for row in rows] == list(range(6))
    assert rows[-1]["divergence"] < 0.9 * rows[0]["divergence"]
    assert not any("reward" in name for row in rows for name in row if name != "reward_s")
    assert "held_out_finished_share_after" in made.metrics


@pytest.mark.parametrize("kills", [False, pytest.param(True, marks=pytest.mark.long)])
def test_generation_beside_training_accounts_for_every_prompt_once(root, workers, kills):
    """Staleness is bounded, and versions are those of each token; also where the generator is killed, and then a rank."""
    import ray

    cfg = config(async_rollouts={"max_staleness": 2}, iterations=6, held_out_prompts=0)
    ctx = context(root, f"beside-{kills}", cfg, workers)
    ranks, killed, log = hold_ranks(workers, cfg.workers).pids(), [], ctx.log

    def log_and_kill(step, **values):
        log(step, **values)
        if kills and step == 1 and not killed:
            (generator,) = hold_pool(workers, cfg.generator)._actors
            killed.append(ray.get(generator.__ray_call__.remote(lambda self: os.getpid())))
            os.kill(killed[-1], signal.SIGKILL)
        if kills and step == 3 and len(killed) == 1:
            killed.append(ranks[1])
            os.kill(killed[-1], signal.SIGKILL)

    ctx.log = log_and_kill
    made = run(cfg, ctx)
    rows = read_metrics(made.folder)
    assert [row["step"] for row in rows] == list(range(6)) and len(killed) == 2 * kills
    assert 0 < max(row.get("staleness_max", 0) for row in rows) <= 2 and all(row["finite"] for row in rows)
    samples = read_parquet(made.folder, SAMPLES).to_pylist()
    asked = {(one["position"], one["row"]) for one in samples}
    assert len(samples) == 6 * len(asked) == 6 * len(read_parquet(made.folder, LEDGER))
    assert all(0 <= one["version"] - one["lowest"] <= 2 for one in samples if one["outcome"] == "trained")


def test_groups_that_teach_nothing_are_replaced(root, workers):
    algorithm = {"kind": "grpo", "num_generations": 2, "dynamic_sampling": 3}
    cfg = config(algorithm=algorithm, iterations=2, max_tokens=1, held_out_prompts=0)
    made = run(cfg, context(root, "refilled", cfg, workers))
    rows, samples = read_metrics(made.folder), read_parquet(made.folder, SAMPLES).to_pylist()
    assert sum(row["prompts_without_signal"] for row in rows) > 0
    assert sum(row["prompts_asked"] for row in rows) == len(read_parquet(made.folder, LEDGER)) == len(samples) / 2
    assert sum(row["samples"] for row in rows) == sum(one["outcome"] == "trained" for one in samples)
