"""Stages that start from unsuitable weights: planning refuses them."""

from __future__ import annotations

import json

import pytest

from raylm import job
from raylm.core.artifact import Checkpoint
from raylm.core.errors import ArtifactError, ConfigError, PlanError
from raylm.starts import made_of
from tests.model.tiny import tiny_checkpoint
from tests.stages import context

HEAD = """
name = "job"
root = "{root}"
[stages.chats]
stage = "tokenize"
documents = "{root}/texts"
tokenizer = "{tokenizer}"
form = {{ kind = "text", length = 16 }}
"""
TRAIN = """
[stages.{name}]
stage = "train"
rows = "chats"
model = "{model}"
batch = 1
steps = 1
{more}
"""


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("start"), vocab=300, hidden=32, layers=1)


def _plan(tmp_path, *tables, tokenizer):
    made = context(tmp_path, "texts")
    if not made.out.exists("manifest.json"):
        from raylm.core.artifact import Documents

        made.commit(Documents, facts={})
    file = tmp_path / "job.toml"
    file.write_text("".join([HEAD.format(root=tmp_path, tokenizer=tokenizer), *tables]))
    return job.plan(job.load(file))


def test_weights_on_this_machine_are_looked_at(tmp_path, start):
    train = TRAIN.format(name="sft", model=start, more="")
    assert [step.state for step in _plan(tmp_path, train, tokenizer=start)] == ["new", "new"]
    broken = tmp_path / "broken"
    broken.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (broken / name).write_bytes((start / name).read_bytes())
    (broken / "model.safetensors").write_bytes((start / "model.safetensors").read_bytes()[:-9])
    with pytest.raises(ArtifactError, match="cut off"):
        _plan(tmp_path, TRAIN.format(name="sft", model=broken, more=""), tokenizer=start)
    with pytest.raises(ArtifactError, match="no such folder"):
        _plan(tmp_path, TRAIN.format(name="sft", model=tmp_path / "nowhere", more=""), tokenizer=start)
    with pytest.raises(ConfigError, match="asked for is an encoder that predicts masked tokens"):
        _plan(tmp_path, TRAIN.format(name="sft", model=start, more="objective = {kind = 'masked_lm'}"), tokenizer=start)


def test_rows_of_another_tokenizer_are_seen(tmp_path, start):
    other = tmp_path / "other"
    other.mkdir()
    told = json.loads((start / "tokenizer.json").read_text())
    vocab = told["model"]["vocab"]
    told["model"]["vocab"] = dict(zip(vocab, reversed(vocab.values()), strict=True))
    (other / "tokenizer.json").write_text(json.dumps(told))
    with pytest.raises(ConfigError, match="the tokenizer of 'chats' is not the model's"):
        _plan(tmp_path, TRAIN.format(name="sft", model=start, more=""), tokenizer=other)


def test_what_a_stage_will_make_must_do_for_the_next(tmp_path, start):
    train = TRAIN.format(name="sft", model=start, more="")
    small = "[stages.small]\nstage = 'compress'\nmodel = 'sft'\nmethod = {kind = 'int4'}\n"
    again = TRAIN.format(name="again", model="small", more="")
    assert len(_plan(tmp_path, train, small, tokenizer=start)) == 3
    with pytest.raises(PlanError, match=r"stages.again.model: 'small' makes quantized weights: only norms and embeddings would"):
        _plan(tmp_path, train, small, again, tokenizer=start)
    masked = TRAIN.format(name="again", model="sft", more="objective = {kind = 'masked_lm'}")
    with pytest.raises(PlanError, match=r"'sft' makes a language model that predicts .* \(causal\); asked for is masked"):
        _plan(tmp_path, train, masked, tokenizer=start)


def test_weights_of_a_finished_stage_are_looked_at_too(tmp_path, start):
    made = context(tmp_path / "job", "base")
    tiny_checkpoint(made.out.uri, vocab=300, hidden=32, layers=1)
    made.commit(Checkpoint, facts={})
    train = TRAIN.format(name="sft", model=made.out.uri, more="")
    assert len(_plan(tmp_path, train, tokenizer=start)) == 2
    weights = tmp_path / "job" / "base" / "model.safetensors"
    weights.write_bytes(bytes(weights.stat().st_size))
    with pytest.raises(ArtifactError, match=r"model.safetensors has no readable header"):
        _plan(tmp_path, train, tokenizer=start)


def test_a_checkpoint_of_another_make_is_refused_where_it_cannot_be_used(tmp_path, start):
    """A reward model before a chat endpoint, a GGUF export before rl, a masked model before generation; made or outside."""
    masked = TRAIN.format(name="bert", model=start, more="objective = {kind = 'masked_lm'}")
    serve = "[stages.api]\nstage = 'serve'\nmodel = '{model}'\n"
    rl = "[stages.policy]\nstage = 'rl'\nprompts = './p'\nmodel = '{model}'\niterations = 1\nrewards = [{{kind = 'answer'}}]\n"
    asks = "[stages.grades]\nstage = 'evaluate'\nmodels = ['{model}']\ntasks = [{{kind = '{task}', rows = './rows'}}]\n"
    for table in (serve, rl, asks.replace("{task}", "answers")):
        with pytest.raises(
            PlanError, match=r"'bert' makes an encoder that predicts masked tokens \(masked\); asked for is causal"
        ):
            _plan(tmp_path, masked, table.format(model="bert"), tokenizer=start)
    made = context(tmp_path / "other", "rewards").commit(Checkpoint, variant="reward", facts={})
    with pytest.raises(ArtifactError, match=r"model: this holds a reward model.*\(reward\); asked for is causal or quantized"):
        _plan(tmp_path, serve.format(model=made.uri), tokenizer=start)
    (tmp_path / "gguf").mkdir()
    (tmp_path / "gguf" / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(ConfigError, match="'again' cannot use files of gguf for another program"):
        _plan(tmp_path, TRAIN.format(name="again", model=tmp_path / "gguf", more=""), tokenizer=start)


def test_config_json_knows_better_than_a_manifest_of_before(tmp_path, start):
    made = context(tmp_path / "old", "bert")
    config = json.loads((start / "config.json").read_text())
    made.out.write_json("config.json", config | {"model_type": "bert", "architectures": ["BertForMaskedLM"]})
    found = made.commit(Checkpoint, facts={"objective": "next_token"})
    assert found.made.variant == "causal" and made_of(found).variant == "masked"
    newer = context(tmp_path / "new", "bert").commit(Checkpoint, variant="reward", facts={})
    assert made_of(newer) == newer.made


def test_an_export_that_the_other_program_has_no_network_for_is_refused(tmp_path):
    from tests.model.gguf.small import small

    def planned(kind: str, written: str) -> None:
        file = tmp_path / "job.toml"
        stage = f'[stages.out]\nstage = "compress"\nmodel = "{small(kind)}"\nformat = {{kind = "{written}"}}\n'
        file.write_text(f'name = "job"\nroot = "{tmp_path}"\n{stage}')
        job.plan(job.load(file))

    with pytest.raises(ConfigError, match=r"builder has no GPT2LMHeadModel[\s\S]*it knows .*LlamaForCausalLM"):
        planned("gpt2", "onnx")
    planned("gpt2", "ollama")
    planned("llama", "onnx")
    planned("llama", "mlx")
