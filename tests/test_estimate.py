"""Estimates: what is known of a stage before it runs, what is suggested, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import ClassVar, Literal

import pytest

from raylm import job
from raylm.compress.config import Compress
from raylm.core.config import Config, card_kind, resolved
from raylm.core.errors import ConfigError, PlanError
from raylm.estimate import _known, check, engine_formats, estimate, suggest
from raylm.evaluate.config import Evaluate
from raylm.inference.engine_dtype import Machine
from raylm.model.adapters.lora import Lora
from raylm.parallel.matrix import features
from raylm.serve.config import Serve
from raylm.train.config import Train
from raylm.train.objectives.objective import Objective
from raylm.trainer.forecast.memory import memory_of
from tests.test_job import write


class Judge(Objective):
    """Trains a reward model, as somebody else's objective would."""

    kind: Literal["judge"] = "judge"
    rows: ClassVar[tuple[str, ...]] = ("Tokens",)
    makes: ClassVar[str] = "reward"


ROOT = Path(__file__).parents[1]
GPUS = 'workers = {count = 2, gpus = 1, device = "h100"}\n'


def test_vocabulary_and_length_come_from_the_stages_before(tmp_path):
    known = _known(job.load(write(tmp_path)), "base")
    assert known.config["vocab_size"] == 300 and known.config["model_type"] == "llama"
    assert (known.length, known.batch, known.steps) == (8, 4, 2)
    assert _known(job.load(write(tmp_path)), "docs") is None


def test_a_checkpoints_own_config_is_read(tmp_path):
    config = {
        "model_type": "qwen2", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128,
        "vocab_size": 500,
    }  # fmt: skip
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "config.json").write_text(json.dumps(config))

    def from_folder(text):
        at = text.index("model = {")
        return text[:at] + f'model = "{tmp_path}/there"' + text[text.index("\n", at) :]

    loaded = job.load(write(tmp_path, from_folder))
    assert _known(loaded, "base").config == config
    assert "parameters" in estimate(loaded, "base")[0]


SHAPES = {
    "Qwen/Qwen3-8B": {
        "model_type": "qwen3", "hidden_size": 4096, "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8,
        "head_dim": 128, "intermediate_size": 12288, "vocab_size": 151936,
    },
    "meta-llama/Llama-3.3-70B-Instruct": {
        "model_type": "llama", "hidden_size": 8192, "num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8,
        "intermediate_size": 28672, "vocab_size": 128256,
    },
    "Qwen/Qwen3-32B": {
        "model_type": "qwen3", "hidden_size": 5120, "num_hidden_layers": 64, "num_attention_heads": 64, "num_key_value_heads": 8,
        "head_dim": 128, "intermediate_size": 25600, "vocab_size": 151936,
    },
    "Qwen/Qwen2.5-7B": {
        "model_type": "qwen2", "hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
        "intermediate_size": 18944, "vocab_size": 152064,
    },
    "Qwen/Qwen2.5-0.5B": {
        "model_type": "qwen2", "hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
        "intermediate_size": 4864, "vocab_size": 151936, "tie_word_embeddings": True,
    },
}  # fmt: skip


def fetched(tmp_path, monkeypatch, hub):
    """The hub's config, as if it had been downloaded; nobody is asked for anything."""
    at = tmp_path / f"models--{hub.replace('/', '--')}"
    (at / "refs").mkdir(parents=True)
    (at / "refs" / "main").write_text("abc")
    (at / "snapshots" / "abc").mkdir(parents=True)
    (at / "snapshots" / "abc" / "config.json").write_text(json.dumps(SHAPES[hub]))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))


OPEN = sorted((ROOT / "jobs" / "open").glob("*.toml"))


def recipe(name: str) -> list[str]:
    """What the command in the comments of a job sets, which is that of the file for open models."""
    command = re.search(rf"^#   (raylm run jobs/{name}\.toml.*)$", (ROOT / "jobs" / f"{name}.toml").read_text(), re.MULTILINE)
    assert command and command[1] in (ROOT / "jobs" / "open" / f"{name}.toml").read_text()
    words = command[1].split()
    return [str(ROOT / words[at + 1]) for at, word in enumerate(words) if word == "--set"]


@pytest.mark.parametrize("name", [each.stem for each in OPEN])
def test_every_job_is_planned_offline_for_an_open_model_with_memory_and_price(tmp_path, monkeypatch, name):
    sets = recipe(name)
    for hub in SHAPES:
        fetched(tmp_path, monkeypatch, hub)
    loaded = job.load(ROOT / "jobs" / f"{name}.toml", [f"root={tmp_path}/runs", *sets])
    (trained,) = [stage for stage, cfg in loaded.stages.items() if getattr(cfg, "model", None) in SHAPES]
    lines = estimate(loaded, trained)
    assert any("GB per rank" in line for line in lines) and "$" in lines[-1], lines


@pytest.mark.parametrize(("name", "hub"), [("sft", "Qwen/Qwen3-8B"), ("qlora", "meta-llama/Llama-3.3-70B-Instruct")])
def test_jobs_are_planned_for_a_hubs_model_whose_config_was_fetched(tmp_path, monkeypatch, name, hub):
    """The commands that the jobs' comments say, as far as plan goes."""
    fetched(tmp_path, monkeypatch, hub)
    sets = recipe(name)
    lines = estimate(job.load(ROOT / "jobs" / f"{name}.toml", [f"root={tmp_path}/runs", *sets]), "tuned")
    memory = float(lines[-2].split(" GB per rank")[0])
    # 70 B weights: 40 GB in 4 bits, on two ranks; 8 B: 131 GB of weights, gradients and moments, on eight
    assert "tokens/s" in lines[-1] and "$" in lines[-1] and (15 < memory < 30 if name == "sft" else 25 < memory < 40)
    if name == "qlora":
        beside = [*sets, 'stages.tuned.adapter={kind = "lora"}']
        with pytest.raises(PlanError, match=r"tuned needs 8.* GB on each of 2 ranks, h100 has 80 GB"):
            estimate(job.load(ROOT / "jobs" / "qlora.toml", [f"root={tmp_path}/runs", *beside]), "tuned")


@pytest.mark.parametrize("name", ["grpo", "rlvr_math", "ppo", "judge"])
def test_rl_jobs_are_planned_for_8_and_70_billion_weights_and_refused_where_these_cannot_fit(tmp_path, monkeypatch, name):
    sets = recipe(name)
    hub, large = list(SHAPES)[:2]
    fetched(tmp_path, monkeypatch, hub)
    fetched(tmp_path, monkeypatch, large)

    def lines(*more):
        return estimate(job.load(ROOT / "jobs" / f"{name}.toml", [f"root={tmp_path}/runs", *sets, *more]), "policy")

    told = lines()
    gpus, more = {"ppo": (16, 48), "judge": (16, 52)}.get(name, (12, 48))
    assert any("each of 4 generators: 16.4 GB of weights" in line for line in told) and f"on {gpus} GPUs, about $" in told[-1]
    if name == "judge":
        assert any("policy.reward_engine_judge: 4 x 16.4 GB of weights" in line for line in told)
    if name == "ppo":
        # 8.2 B weights and two moments of four bytes over twelve ranks; the reference has weights alone
        assert any("8.19 GB are of the critic" in line for line in told) and any(
            "2.73 GB are of the reference" in line for line in told
        )
    model = f'stages.policy.model="{large}"'
    with pytest.raises(PlanError, match=r"policy needs|a generator has 68\.0 GB of h100, it needs 141\.1 for weights"):
        lines(model)
    device = 'stages.policy.workers={count = 32, gpus = 1, device = "b200"}'
    told = lines(model, device, "stages.policy.generator.count=16", "stages.policy.micro_batch=1")
    assert f"on {more} GPUs, about $" in told[-1]


def test_a_device_brings_speed_and_cost_and_suggestions(tmp_path):
    loaded = job.load(write(tmp_path, lambda text: text.replace("batch = 4\n", "batch = 4\n" + GPUS)))
    assert "tokens/s" in estimate(loaded, "base")[-1] and "$" in estimate(loaded, "base")[-1]
    assert all("strategy = {kind = " in toml for _, toml in suggest(loaded, "base"))
    with pytest.raises(PlanError, match="'docs' is no train or rl stage"):
        suggest(loaded, "docs")


def test_rl_is_estimated_like_training(tmp_path):
    rl = (
        '[stages.prompts]\nstage = "tokenize"\ndocuments = "docs"\ntokenizer = "tokens"\nform = {kind = "prompts", length = 40}\n'
        '[stages.policy]\nstage = "rl"\nprompts = "prompts"\nmodel = "base"\nrewards = [{kind = "pattern", pattern = "x"}]\n'
        "iterations = 5\nprompts_per_iteration = 6\nmax_tokens = 20\n" + GPUS
    )
    loaded = job.load(write(tmp_path, lambda text: text + rl))
    known = _known(loaded, "policy")
    assert (known.length, known.batch, known.steps) == (60, 48, 5)
    assert "GB per rank" in estimate(loaded, "policy")[1] and "tokens/s" in estimate(loaded, "policy")[2]
    cfg = loaded.stages["policy"]
    lean, size = cfg.model_copy(update={"adapter": Lora(rank=2)}), {"length": 60, "micro": 4, "world": 2, "num_micros": 6}
    trained, frozen = memory_of(cfg, known.config, **size), memory_of(lean, known.config, **size)
    assert frozen.optimizer < trained.optimizer


def test_the_plan_says_what_engines_will_not_compute_in(tmp_path):
    """A machine with AMX, one without, one without AVX-512: what the plan says of the same 8-bit and 4-bit models."""
    path = tmp_path / "job.toml"
    path.write_text(
        f'name = "j"\nroot = "{tmp_path}"\n'
        '[stages.small]\nstage = "compress"\nmodel = "org/model"\nmethod = {kind = "int8", activations = "dynamic"}\n'
        '[stages.smallest]\nstage = "compress"\nmodel = "org/model"\nmethod = {kind = "int4"}\n'
        '[stages.api]\nstage = "serve"\nmodel = "small"\n'
        '[stages.half]\nstage = "compress"\nmodel = "org/model"\ncalibration = "org/rows"\n'
        'method = {kind = "smooth_quant", reduce_range = true}\n'
        '[stages.reduced]\nstage = "serve"\nmodel = "half"\n'
        '[stages.tiny]\nstage = "serve"\nmodel = "smallest"\nworkers = {gpus = 1}\n'
        '[stages.late]\nstage = "serve"\nmodel = "smallest"\n'
        '[stages.cached]\nstage = "compress"\nmodel = "org/model"\nkv_cache = {}\ncalibration = "org/rows"\n'
        '[stages.keeps]\nstage = "serve"\nmodel = "cached"\n'
        '[stages.asks]\nstage = "serve"\nmodel = "org/model"\nengine = {kv_cache_dtype = "fp8"}\n'
        '[[stages.asks.more]]\nmodel_name = "second"\nmodel = "small"\n'
        '[stages.judged]\nstage = "rl"\nmodel = "org/model"\nprompts = "org/prompts"\niterations = 1\n'
        'rewards = [{kind = "engine_judge", model = "small", rubric = "Right?"}]\n'
    )
    loaded = job.load(path)
    amx, amd, old = (Machine("x86_64", *has) for has in ((True,) * 4, (True, True, False, True), (False,) * 4))
    assert (
        "float32 but in bfloat16 on a machine like this one: the 8-bit kernels of CPUs with AMX"
        in engine_formats(loaded, "api", amx)[0]
    )
    assert engine_formats(loaded, "api", amd) == engine_formats(loaded, "small", amx) == []
    assert "no engine runs small on a machine like this one: products of whole 8-bit" in engine_formats(loaded, "api", old)[0]
    assert engine_formats(loaded, "reduced", old) == []
    assert "kernels of GPUs" in engine_formats(loaded, "tiny", old)[0]
    assert "no engine runs smallest" in engine_formats(loaded, "late", old)[0]
    assert "no engine runs cached on a machine like this one: this checkpoint's keys" in engine_formats(loaded, "keeps", old)[0]
    assert "kv_cache_dtype = 'fp8' keeps keys and values in fp8" in engine_formats(loaded, "asks", old)[0]
    assert (
        engine_formats(loaded, "keeps", amd) == engine_formats(loaded, "asks", amd) == engine_formats(loaded, "judged", amd) == []
    )
    for stage in ("asks", "judged"):
        assert "no engine runs small on a machine like this one: products" in engine_formats(loaded, stage, old)[-1]


def test_the_plan_says_which_heads_no_engine_takes(tmp_path):
    rl = (
        '[stages.prompts]\nstage = "tokenize"\ndocuments = "docs"\ntokenizer = "tokens"\nform = {kind = "prompts", length = 40}\n'
        '[stages.policy]\nstage = "rl"\nprompts = "prompts"\nmodel = "base"\nrewards = [{kind = "pattern", pattern = "x"}]\n'
        "iterations = 1\n"
        '[stages.api]\nstage = "serve"\nmodel = "policy"\n'
    )
    for heads, told in ((1, 0), (2, 1)):
        loaded = job.load(write(tmp_path, lambda text, heads=heads: text.replace("num_heads = 2", f"num_heads = {heads}") + rl))
        for name in ("policy", "api"):
            lines = engine_formats(loaded, name)
            assert len(lines) == told and all("its attention has heads of 16" in line for line in lines)


class Sums(Objective):
    """An objective without a kind of its own."""

    rows: ClassVar[tuple[str, ...]] = ("Tokens",)


class Grades(Config):
    needs: ClassVar[tuple[str, ...]] = ("generate",)

    def grade(self, lm, rows): ...


class Nothing(Config):
    pass


def _custom(name):
    return {"kind": "custom", "path": f"{__name__}:{name}"}


def test_custom_cards_need_no_kind():
    assert card_kind(Sums()) == "Sums"
    cfg = Evaluate(stage="evaluate", models=["m"], tasks=[_custom("Grades")])
    assert resolved(cfg).narrowed()["models"].by == "task Grades"
    train = Train(stage="train", rows="r", model="m", steps=1, batch=1, objective=_custom("Sums"))
    assert "Sums" in features(resolved(train)) and resolved(train).narrowed()["rows"].by == "objective Sums"


@pytest.mark.parametrize(
    ("stage", "table", "said"),
    [
        (Evaluate, {"models": ["x/m"], "tasks": [_custom("Nothing")]}, "'Nothing' has no method grade"),
        (Compress, {"model": "x/m", "method": _custom("Nothing")}, "'Nothing' has no method apply"),
        (Serve, {"model": "x/m", "guards": [_custom("Nothing")]}, "the custom card is no guard"),
    ],
)
def test_cards_that_cannot_be_called_are_refused(tmp_path, stage, table, said):
    cfg = stage(stage=stage.__name__.lower(), **table)
    step = job.Step("last", cfg, cfg.makes(), [], "new", [])
    with pytest.raises(ConfigError, match=said):
        check(job.Job(name="j", root=str(tmp_path), stages={"last": cfg}), step, [step])


def test_no_adapter_beside_a_new_value_head(tmp_path):
    """Of a fresh model, of a stage that makes a language model, of weights outside; a reward model has its head."""
    from tests.model.tiny import tiny_checkpoint

    objective = 'rows = "tokens"\nbatch = 4\nsteps = 2\nobjective = {kind = "custom", path = "tests.test_estimate:Judge"}\n'
    outside = tmp_path / "reward"
    outside.mkdir()
    (outside / "config.json").write_text(json.dumps({"architectures": ["LlamaForSequenceClassification"], "num_labels": 1}))
    plain = tiny_checkpoint(tmp_path / "plain")

    def checked(model, adapter="adapter = {}\n"):
        stage = f'[stages.judge]\nstage = "train"\nmodel = {model}\n{objective}{adapter}'
        loaded = job.load(write(tmp_path, lambda text: text + stage))
        return check(loaded, job.Step("judge", loaded.stages["judge"], loaded.stages["judge"].makes(), [], "new", []), [])

    for model in ('"base"', f'"{plain}"', '{kind = "llama", hidden_size = 32, num_layers = 1, num_heads = 2}'):
        assert checked(model, "") == []
        with pytest.raises(ConfigError, match="beside a new value head would train under a random readout") as caught:
            checked(model)
        assert "drop `adapter`" in str(caught.value) and caught.value.where.startswith("stages.judge")
    assert checked(f'"{outside}"') == []


def test_a_pruned_model_is_counted_as_it_will_be(tmp_path):
    job_file, root = ROOT / "jobs" / "prune.toml", f"root={tmp_path}"
    whole, half = (
        next(line for line in estimate(job.load(job_file, [root]), name) if "M parameters," in line)
        for name in ("parent", "student")
    )
    assert whole.startswith("1.97 M parameters") and half.startswith("1.12 M parameters")
    wide = [root, 'stages.smaller.method={kind = "width", ffn = 0.5}']
    assert any("1.38 M parameters" in line for line in estimate(job.load(job_file, wide), "student"))
    with pytest.raises(ConfigError, match="num_layers = 9, but the model has 8"):
        estimate(job.load(job_file, [root, 'stages.smaller.method={kind = "depth", num_layers = 9}']), "student")
