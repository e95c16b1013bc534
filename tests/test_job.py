"""Jobs: the chain is checked before anything starts; finished stages are reused, changed ones are refused."""

import json
from contextlib import contextmanager
from pathlib import Path

import pytest

from raylm import job
from raylm.core.artifact import Documents, Tokens
from raylm.core.config import references
from raylm.core.errors import ArtifactError, ConfigError, DriftError, PlanError
from raylm.core.lock import locked
from raylm.core.storage import Folder
from tests.stages import context

CHAIN = """
name = "t"
root = "{root}"
[stages.docs]
stage = "prepare"
source = {{kind = "text", glob = "{root}/*.txt"}}
[stages.tokens]
stage = "tokenize"
documents = "docs"
tokenizer = {{kind = "bpe", vocab_size = 300}}
form = {{kind = "text", length = 8}}
[stages.base]
stage = "train"
rows = "tokens"
model = {{kind = "llama", hidden_size = 32, num_layers = 1, num_heads = 2}}
batch = 4
steps = 2
"""


def write(tmp_path, change=lambda text: text):
    path = tmp_path / "job.toml"
    path.write_text(change(CHAIN.format(root=tmp_path)))
    return path


def finish(tmp_path, loaded, name, kind, payload=b"rows"):
    """Leave the artifact that stage `name` of `loaded` would leave, without running it."""
    ctx = context(tmp_path / "t", name, loaded.stages[name])
    inputs = [job._input_entry(loaded, ref) for ref in references(loaded.stages[name])]
    ctx._identity = job._identity(loaded.stages[name], inputs)
    ctx._inputs, ctx.fingerprint = inputs, job.digest_of(ctx._identity)
    ctx.out.write("payload", payload)
    ctx.commit(kind, facts={})


def test_stages_run_in_the_order_of_their_references(tmp_path):
    loaded = job.load(write(tmp_path))
    steps = job.plan(loaded)
    assert [step.name for step in steps] == ["docs", "tokens", "base"]
    assert {step.state for step in steps} == {"new"}
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize(
    ("old", "new", "kind", "said"),
    [
        ('rows = "tokens"', 'rows = "docs"', PlanError, r"job\.toml:\d+ stages\.base\.rows: 'docs' makes Documents"),
        ('rows = "tokens"', 'rows = "tokens"\nobjective = {kind = "dpo"}', PlanError, "makes Tokens, objective dpo needs Pairs"),
        ('rows = "tokens"', 'rows = "tokns"', PlanError, r"no stage is called 'tokns'\. Did you mean 'tokens'"),
        ("batch = 4", "bach = 4", ConfigError, r"stages\.base\.bach: unknown key\. Did you mean 'batch'"),
        ("steps = 2", "", ConfigError, "say one of `steps`, `epochs`, `tokens`"),
        ("num_heads = 2", "num_heads = 5", ConfigError, "not a multiple of num_heads"),
        ('stage = "train"', 'stage = "trein"', ConfigError, "stages.base"),
        ('name = "t"', 'name = "../t"', ConfigError, "name"),
    ],
)
def test_mistakes_are_found_before_anything_starts(tmp_path, old, new, kind, said):
    with pytest.raises(kind, match=said):
        job.load(write(tmp_path, lambda text: text.replace(old, new)))


def test_a_circle_is_named(tmp_path):
    table = '[stages.{}]\nstage = "train"\nrows = "tokens"\nmodel = "{}"\nbatch = 4\nsteps = 2\n'
    circle = table.format("a", "b") + table.format("b", "a")
    with pytest.raises(PlanError, match="a -> b -> a"):
        job.load(write(tmp_path, lambda text: text + circle))


def test_finished_stages_are_reused_and_changed_ones_refused(tmp_path):
    loaded = job.load(write(tmp_path))
    finish(tmp_path, loaded, "docs", Documents)
    finish(tmp_path, loaded, "tokens", Tokens)
    assert [step.state for step in job.plan(loaded)] == ["ready", "ready", "new"]
    assert [step.state for step in job.plan(loaded, rebuild=["docs"])] == ["new", "new", "new"]

    changed = job.load(tmp_path / "job.toml", ["stages.tokens.form.length=16"])
    steps = job.plan(changed)
    assert [step.state for step in steps] == ["ready", "drift", "new"]
    assert steps[1].drift == ["form.length 8 -> 16"]
    with pytest.raises(DriftError, match="--rebuild tokens"):
        job.run(changed)

    placed = job.load(tmp_path / "job.toml", ["stages.tokens.workers.count=7"])
    assert [step.state for step in job.plan(placed)] == ["ready", "ready", "new"]


def test_an_outside_artifact_is_taken_by_its_folder(tmp_path):
    loaded = job.load(write(tmp_path))
    finish(tmp_path, loaded, "docs", Documents)
    other = tmp_path / "other.toml"
    other.write_text(
        f'name = "o"\nroot = "{tmp_path}"\n[stages.tokens]\nstage = "tokenize"\ndocuments = "{tmp_path}/t/docs"\n'
        'tokenizer = {kind = "bpe", vocab_size = 300}\nform = {kind = "text", length = 8}\n'
    )
    assert [step.state for step in job.plan(job.load(other))] == ["new"]
    entry = job._input_entry(job.load(other), next(references(job.load(other).stages["tokens"])))
    assert entry.fingerprint == json.loads((tmp_path / "t/docs/manifest.json").read_text())["fingerprint"]
    with pytest.raises(ArtifactError, match="nothing finished"):
        missing = job.load(other, [f'stages.tokens.documents="{tmp_path}/none"'])
        job._input_entry(missing, next(references(missing.stages["tokens"])))


def test_an_input_made_again_with_other_bytes_is_another_input(tmp_path):
    loaded = job.load(write(tmp_path))
    finish(tmp_path, loaded, "docs", Documents, payload=b"one")
    finish(tmp_path, loaded, "tokens", Tokens)
    assert [step.state for step in job.plan(loaded)] == ["ready", "ready", "new"]
    finish(tmp_path, loaded, "docs", Documents, payload=b"two")
    assert [step.state for step in job.plan(loaded)] == ["ready", "drift", "new"]
    finish(tmp_path, loaded, "docs", Documents, payload=b"one")
    assert [step.state for step in job.plan(loaded)] == ["ready", "ready", "new"]


def test_unfinished_work_of_another_config_is_not_thrown_away_unasked(tmp_path):
    loaded = job.load(write(tmp_path))
    finish(tmp_path, loaded, "docs", Documents)
    entries = [job._input_entry(loaded, ref) for ref in references(loaded.stages["tokens"])]
    work = Folder(tmp_path / "t" / "tokens")
    work.write_json(job.IDENTITY, job._identity(loaded.stages["tokens"], entries))
    assert [step.state for step in job.plan(loaded)] == ["ready", "unfinished", "new"]
    changed = job.load(tmp_path / "job.toml", ["stages.tokens.form.length=16"])
    assert [step.state for step in job.plan(changed)] == ["ready", "drift", "new"]
    with pytest.raises(DriftError, match=r"begun or made from another config: form\.length 8 -> 16"):
        job.run(changed)
    assert work.exists(job.IDENTITY)


def test_endpoints_come_last(tmp_path):
    served = (
        '[stages.a_door]\nstage = "serve"\nmodel = "base"\n[stages.small]\nstage = "compress"\nmodel = "base"\n'
        'method = {kind = "int4"}\n'
    )
    loaded = job.load(write(tmp_path, lambda text: text + served))
    assert job.check_chain(loaded) == ["docs", "tokens", "base", "small", "a_door"]


def test_an_outside_artifact_that_is_not_there_is_found_before_anything_runs(tmp_path):
    loaded = job.load(write(tmp_path), [f'stages.tokens.documents="{tmp_path}/none"'])
    with pytest.raises(ArtifactError, match="nothing finished"):
        job.plan(loaded)


def test_names_on_the_command_line_are_checked(tmp_path):
    loaded = job.load(write(tmp_path))
    with pytest.raises(ConfigError, match="Did you mean 'tokens'"):
        job.run(loaded, only="token")
    with pytest.raises(ConfigError, match="--rebuild bas"):
        job.plan(loaded, rebuild=["bas"])


def test_two_runs_of_one_job_do_not_meet(tmp_path):
    loaded = job.load(write(tmp_path))
    with locked(Folder(tmp_path) / "t"), pytest.raises(PlanError, match="another run"):
        job.run(loaded)
    assert Path(tmp_path, "t", ".lock").exists()


def test_other_input_files_are_another_computation(tmp_path):
    (tmp_path / "a.jsonl").write_text("{}\n")
    table = {"stage": "prepare", "source": {"kind": "jsonl", "glob": f"{tmp_path}/*.jsonl"}}
    cfg = job.Job(name="j", stages={"docs": table}).stages["docs"]
    before = cfg.raw()
    assert cfg.raw() == before and next(iter(before.values())).startswith("1 files, 3 bytes (")
    (tmp_path / "b.jsonl").write_text("{}\n")
    assert cfg.raw() != before


@pytest.mark.parametrize("name", ["..", ".", "", ".lock", "a/b", "index.html", "stages.json", "run.json"])
def test_a_stage_is_called_what_a_folder_can_be(tmp_path, name):
    path = write(tmp_path)
    path.write_text(path.read_text().replace("[stages.docs]", f'[stages."{name}"]').replace('"docs"', f'"{name}"'))
    with pytest.raises(ConfigError, match="a stage cannot be called"):
        job.load(path)


def test_an_endpoint_stands_while_a_later_stage_asks_it(tmp_path):
    stages = {
        "api": {"stage": "serve", "model": "x/m"},
        "report": {"stage": "evaluate", "models": ["api"], "tasks": [{"kind": "answers", "rows": "x/prompts"}]},
        "other": {"stage": "evaluate", "models": ["x/m"], "tasks": [{"kind": "answers", "rows": "x/prompts"}]},
    }
    loaded = job.Job.model_validate({"name": "j", "root": str(tmp_path), "stages": stages})
    assert job.check_chain(loaded) == ["other", "api", "report"]
    held = {
        name: job._held_for(loaded, job.Step(name, cfg, cfg.makes(), list(references(cfg)), "new", []))
        for name, cfg in loaded.stages.items()
    }
    assert held == {"api": {"replicas"}, "report": {"workers", "generator", "replicas"}, "other": {"workers", "generator"}}


def test_an_endpoint_gives_no_log_probabilities_of_given_tokens(tmp_path):
    stages = {
        "api": {"stage": "serve", "model": "x/m"},
        "report": {"stage": "evaluate", "models": ["api"], "tasks": [{"kind": "bits_per_byte", "rows": "x/tokens"}]},
    }
    loaded = job.Job.model_validate({"name": "j", "root": str(tmp_path), "stages": stages})
    with pytest.raises(PlanError, match="'api' makes Endpoint, task bits_per_byte needs Checkpoint"):
        job.check_chain(loaded)


def test_an_endpoint_elsewhere_is_no_reference(tmp_path):
    away = {"name": "away", "url": "http://127.0.0.1:9/v1", "model": "m"}
    task = {"kind": "answers", "rows": "x/prompts"}
    stages = {"report": {"stage": "evaluate", "models": ["away"], "endpoints": [away], "tasks": [task]}}
    loaded = job.Job.model_validate({"name": "j", "root": str(tmp_path), "stages": stages})
    assert [ref.value for ref in references(loaded.stages["report"])] == ["x/prompts"]
    assert job.check_chain(loaded) == ["report"]


def test_what_another_run_made_while_this_one_waited_for_the_lock_is_not_thrown_away(tmp_path, monkeypatch):
    """It planned to make the stage; the other one made it, from another config, before the lock was free."""
    first = job.load(write(tmp_path))
    (tmp_path / "a.txt").write_text("text")

    @contextmanager
    def after_another_run(folder):
        changed = job.load(write(tmp_path, lambda text: text.replace("vocab_size = 300", "vocab_size = 301")))
        finish(tmp_path, changed, "docs", Documents)
        finish(tmp_path, changed, "tokens", Tokens)
        with locked(folder):
            yield

    monkeypatch.setattr(job, "locked", after_another_run)
    with pytest.raises(DriftError, match=r"'tokens' was begun or made from another config"):
        job.run(first, only="tokens")
    assert (tmp_path / "t" / "tokens" / "manifest.json").exists()
