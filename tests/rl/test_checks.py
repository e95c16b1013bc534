"""Jobs whose cards, prompts and model do not fit together: they are refused before anything starts."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from raylm import job
from raylm.core.artifact import Prompts, open_artifact
from raylm.core.errors import ConfigError
from raylm.core.storage import Folder
from raylm.estimate import check
from raylm.job import Step
from raylm.model.limits import config_of
from raylm.rl.checks import check_cards, check_prompts, check_thoughts, known_of
from raylm.rl.types import Prompt
from tests.model.tiny import tiny_checkpoint, tiny_tokenizer
from tests.rl.samples import config, setup_of
from tests.rows import make_rows


class TooFew:
    def score(self, prompt, completion):
        return 1.0


class Later:
    async def score(self, prompt, completion, ground_truth):
        return 1.0


class Yields:
    async def score(self, prompt, completion, ground_truth):
        yield 1.0


class Any3:
    def score(self, *arguments):
        return 1.0


class Groupless:
    def advantages(self, experience):
        return experience

    def loss(self, inputs):
        return None


class Critical(Groupless):
    kind, num_generations, needs = "critical", 2, ("oracle",)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A model of 64 positions and 300 tokens, and prompts that fit it or do not."""
    at = tmp_path_factory.mktemp("fit")
    tiny_checkpoint(at / "model", vocab=300, layers=1, max_len=64)
    tiny_checkpoint(at / "small", vocab=280, layers=1, max_len=64)
    rows = [{"tokens": [1, 3, 70 + row, 4], "messages": "[]", "ground_truth": None} for row in range(8)]
    make_rows(at, "own", Prompts, rows)
    make_rows(at, "wild", Prompts, [{**row, "tokens": [1, 299 + place, 4]} for place, row in enumerate(rows)])
    make_rows(at, "other_end", Prompts, rows, eos_token_id=7)
    return at


def fits(root, prompts, model="model", **table):
    cfg = config(prompts=prompts, **{"max_tokens": 16, "prompts_per_iteration": 4} | table)
    path = str(root / model)
    return check_prompts(cfg, known_of(open_artifact(Folder(root / prompts))), path, config_of(path), made=True)


def test_prompts_of_the_models_own_tokenizer_fit(root):
    assert fits(root, "own") == []
    assert fits(root, "own", max_tokens=60) == []


def test_an_algorithm_that_needs_what_there_is_not_is_refused():
    with pytest.raises(ConfigError, match="algorithm critical needs oracle, which this version has not"):
        check_cards(config(algorithm={"kind": "custom", "path": f"{__name__}:Critical"}))


@pytest.mark.parametrize("table", [{"async_rollouts": {}}, {"algorithm": {"kind": "grpo", "dynamic_sampling": 3}}])
def test_spikes_are_refused_where_there_is_no_batch_to_pass_over(table):
    check_cards(config(spikes={}))
    check_cards(config(spikes={}, async_rollouts={"max_staleness": 0}))
    with pytest.raises(ConfigError, match="`spikes` passes over whole batches"):
        check_cards(config(spikes={}, **table))


@pytest.mark.parametrize(
    ("prompts", "table", "words"),
    [
        ("own", {"max_tokens": 61}, "4 \\+ 61 tokens .* the model has 64 positions"),
        ("own", {"model": "small"}, "the tokenizer of 'own' has 300 tokens, the model's embedding 280"),
        ("wild", {}, "a prompt of 'wild' has token 306, the model's embedding 300 rows"),
        ("own", {"rewards": [{"kind": "answer"}]}, "the reward `answer` needs a ground truth, no prompt of 'own' has one"),
        ("other_end", {}, "ends texts with token 7, the model with \\[2\\]"),
    ],
)
def test_what_does_not_fit_is_refused(root, prompts, table, words):
    with pytest.raises(ConfigError, match=words):
        fits(root, prompts, **table)


def test_rewards_know_whether_prompts_open_a_thought(tmp_path):
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    opening, plain = ([Prompt(0, tokenizer.encode(text), "[]", "4")] for text in ("2 + 2 <think>\n", "2 + 2 ="))
    for kind in ("answer", "math"):
        told = config(rewards=[{"kind": kind, "opened": True}])
        untold = config(rewards=[{"kind": "pattern", "pattern": "x"}, {"kind": kind}])
        check_thoughts(told, opening, Folder(tmp_path))
        check_thoughts(untold, plain, Folder(tmp_path))
        with pytest.raises(ConfigError, match="the prompts open a thought") as refused:
            check_thoughts(untold, opening, Folder(tmp_path))
        assert "rewards.1.opened" in str(refused.value) and "opened = true" in str(refused.value)
        with pytest.raises(ConfigError, match="the prompts open no thought"):
            check_thoughts(told, plain, Folder(tmp_path))


def test_a_set_that_is_smaller_than_an_iteration_is_asked_whole_each_time_and_that_is_said(root):
    (said,) = fits(root, "own", prompts_per_iteration=5, max_tokens=8)
    assert said.startswith("an iteration asks 5 prompts, 'own' has 4 to learn from: each asks all of them, with fresh draws")
    setup, cfg = setup_of(root, prompt_rows=[3, 5, 8, 9]), config(prompts_per_iteration=9)
    orders = [setup.rows_at(cfg, position) for position in range(12)]
    assert all(sorted(rows) == [3, 5, 8, 9] for rows in orders) and len({tuple(rows) for rows in orders}) > 3


def test_a_mixture_of_experts_is_told_that_its_routing_is_not_replayed(root):
    dense = config_of(str(root / "model"))
    known, cfg = known_of(open_artifact(Folder(root / "own"))), config(prompts_per_iteration=4, max_tokens=8)
    said = [check_prompts(cfg, known, str(root / "model"), {**dense, **more}, made=False) for more in ({}, {"num_experts": 8})]
    assert said[0] == [] and len(said[1]) == 1 and "8 experts a layer" in said[1][0] and "R3" in said[1][0]


def test_a_punishment_that_no_completion_can_earn_is_refused(root):
    overlong = {"kind": "grpo", "overlong": {"expected_tokens": 16, "buffer_tokens": 4}}
    assert fits(root, "own", max_tokens=20, algorithm=overlong) == []
    with pytest.raises(ConfigError, match="none is longer than 16"):
        fits(root, "own", max_tokens=16, algorithm=overlong)


@pytest.mark.parametrize("key", ["top_p", "top_k", "min_p"])
def test_draws_that_are_cut_are_refused_in_words(key):
    with pytest.raises(ValidationError, match="the ratio of new to old probability would be wrong"):
        config(**{key: 1})


def test_another_tokenizer_of_the_same_size_is_refused(root):
    file = tiny_checkpoint(root / "scrambled", vocab=300, layers=1, max_len=64) / "tokenizer.json"
    read = json.loads(file.read_text())
    words = sorted(read["model"]["vocab"], key=read["model"]["vocab"].get)
    read["model"]["vocab"] = dict(zip(words, [*range(6), *range(len(words) - 1, 5, -1)], strict=True))
    file.write_text(json.dumps(read))
    with pytest.raises(ConfigError, match=r"the tokenizer of 'own' is not the model's: .* ids mean other texts"):
        fits(root, "own", model="scrambled")


def test_prompts_of_another_chat_template_are_refused(root):
    make_rows(
        root, "other_template", Prompts, [{"tokens": [1, 3, 70 + row, 4]} for row in range(8)], chat_template_sha256="0" * 64
    )
    with pytest.raises(ConfigError, match="by the chat template 000000000000, beside the model lies"):
        fits(root, "other_template")


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("nowhere.at_all:Nope", "ModuleNotFoundError: No module named 'nowhere'"),
        ("tests.rl.test_checks:Nope", "AttributeError"),
        ("tests.rl.test_checks:TooFew", "raylm calls score\\(prompt, completion, ground_truth\\)"),
        ("tests.rl.test_checks:Yields", "yields"),
        ("tests.rl.test_checks:Groupless", "no method score"),
    ],
)
def test_rewards_that_cannot_be_called_are_refused(path, words):
    with pytest.raises(ConfigError, match=words):
        check_cards(config(rewards=[{"kind": "custom", "path": path}]))


def test_a_reward_that_takes_anything_or_is_async_is_fine_and_an_algorithm_needs_a_group():
    for name in ("Any3", "Later"):
        check_cards(config(rewards=[{"kind": "custom", "path": f"tests.rl.test_checks:{name}"}]))
    with pytest.raises(ConfigError, match="needs `num_generations`"):
        check_cards(config(algorithm={"kind": "custom", "path": "tests.rl.test_checks:Groupless"}))


@pytest.mark.parametrize(
    "table",
    [
        {"held_out_prompts": -1},
        {"reward_timeout_s": 0},
        {"temperature": float("inf")},
        {"generator": {"count": 0}},
        {"generator": {"cpus": -1}},
        {"generator": {"hang_s": 0}},
    ],
)
def test_keys_that_mean_nothing_are_refused(table):
    with pytest.raises(ValueError, match=r"."):
        config(**table)


def planned(tmp_path, stages: str):
    (tmp_path / "job.toml").write_text(f'name = "j"\nroot = "{tmp_path}"\n{stages}')
    loaded = job.load(tmp_path / "job.toml")
    steps = job.plan(loaded)
    return [line for step in steps for line in check(loaded, step, steps)]


RL = """
[stages.policy]
stage = "rl"
prompts = "prompts"
model = "base"
rewards = [{kind = "pattern", pattern = "a"}]
iterations = 1
max_tokens = MAX
[stages.docs]
stage = "prepare"
source = {kind = "python_library"}
[stages.tokens]
stage = "tokenize"
documents = "docs"
tokenizer = {kind = "bpe", vocab_size = 300}
form = {kind = "text", length = 64}
[stages.prompts]
stage = "tokenize"
documents = "docs"
tokenizer = "tokens"
form = {kind = "prompts", length = 48}
[stages.base]
stage = "train"
rows = "tokens"
model = {kind = "llama", hidden_size = 32, num_layers = 1, num_heads = 1, intermediate_size = 64, max_length = 64}
objective = {kind = "next_token"}
steps = 1
batch = 4
"""


def test_a_plan_knows_the_positions_of_a_model_that_is_not_made_yet(tmp_path):
    assert planned(tmp_path, RL.replace("MAX", "16")) == []
    (line,) = planned(tmp_path, RL.replace("MAX", "17"))
    assert line == "prompts may have up to 48 tokens, with max_tokens = 17 more than the model's 64 positions"
    with pytest.raises(ConfigError, match=r"1 \+ 64 tokens .* 64 positions") as caught:
        planned(tmp_path, RL.replace("MAX", "64"))
    assert caught.value.where == "stages.policy"


def test_a_module_that_only_another_machine_has_is_said_and_not_refused(tmp_path, monkeypatch):
    (tmp_path / "elsewhere.py").write_text("import a_package_of_the_cluster\nclass Card: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    stages = RL.replace("MAX", "16").replace('{kind = "pattern", pattern = "a"}', '{kind = "custom", path = "elsewhere:Card"}')
    (line,) = planned(tmp_path, stages)
    assert "cannot be checked here: it imports 'a_package_of_the_cluster'" in line


def test_what_is_ready_is_not_checked_again(tmp_path):
    (tmp_path / "job.toml").write_text(f'name = "j"\nroot = "{tmp_path}"\n{RL.replace("MAX", "64")}')
    loaded = job.load(tmp_path / "job.toml")
    steps = job.plan(loaded)
    step = next(step for step in steps if step.name == "policy")
    with pytest.raises(ConfigError):
        check(loaded, step, steps)
    assert check(loaded, Step(*step[:4], "ready", []), steps) == []


class PlainReward:
    """No Config, and without a kind."""

    needs = ("ground_truth",)

    def score(self, prompt, completion, ground_truth): ...


def test_a_reward_may_be_a_plain_class(tmp_path):
    stages = RL.replace("MAX", "16")
    plain = stages.replace('{kind = "pattern", pattern = "a"}', f'{{kind = "custom", path = "{__name__}:PlainReward"}}')
    assert plain != stages and planned(tmp_path, plain) == []
