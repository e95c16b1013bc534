"""`raylm tune-mixture` with real proxies of a tiny job: chosen, written, found again, refused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from raylm import job
from raylm.cli import main
from raylm.core.artifact import Report, open_artifact
from raylm.core.config import references
from raylm.core.errors import ConfigError, DriftError, TrainingError
from raylm.core.storage import Folder
from raylm.mixture import pool
from raylm.mixture.draws import caps_of
from raylm.mixture.found import Asked, find
from raylm.mixture.pool import Pool
from raylm.mixture.proxy import Result, train_proxy
from raylm.mixture.tune import _small, _tokenizer, tuned
from raylm.model.shapes.llama import Llama
from tests.mixture.sources import asked, make_job, tuning


@pytest.fixture(scope="module")
def job_file(tmp_path_factory):
    return make_job(tmp_path_factory.mktemp("mixture"))


@pytest.fixture(scope="module")
def found(job_file):
    """A whole tuning in processes of its own; the natural mixture is ten parts of a, two of b, one of c."""
    arguments = asked(job_file, "--unseen", "3")
    made = tuning(arguments)
    return made, tuned(made, arguments), arguments


def test_the_chosen_mixture_loses_less_and_is_written_as_a_job_with_its_lineage(found):
    made, what, _ = found
    assert what.ranks > 0.7 and not what.refused
    assert what.chosen_loss < 0.98 * what.natural_loss
    assert what.shares[0] < 0.7 and sum(what.shares) == pytest.approx(1.0)
    assert len(what.unseen) == 3 and {one.order for one in what.proxies}.isdisjoint(one.order for one in what.unseen)
    best = job.load(made.folder.path("best.toml"))
    rows = best.stages["base"].rows
    assert [part.weight for part in rows.parts] == what.shares and [part.rows for part in rows.parts] == ["a", "b", "c"]
    report = open_artifact(made.folder)
    assert isinstance(report, Report) and {one.name for one in report.manifest.inputs} == {"a", "b", "c"}
    assert len(report.facts["proxies"]) == 14 and report.facts["shares"] == what.shares
    rows.check_chosen(report.facts, report.uri)
    # the train stage names the report: it is one of its inputs, and of the checkpoint's lineage
    assert made.folder.uri in {ref.value for ref in references(best.stages["base"])}
    assert made.folder.size("mixture.png") > 10_000 and "rank correlation" in made.folder.read("report.html").decode()
    assert not [name for name in made.folder.files() if ".work" in name], "weights of proxies are not kept"


def test_a_proxy_is_the_stage_itself(found):
    """One proxy, trained here with the stage's own loop: the process of the pool found the same."""
    from raylm.train.stage import prepared

    made, what, arguments = found
    targets = made.targets(open_artifact(made.job.folder("a")))
    ctx = made.context({}, [])
    cfg = made.proxy(what.proxies[2].shares, 300)
    assert cfg.steps == 40 and cfg.model.hidden_size == 32 and cfg.optimizer == made.cfg.optimizer
    ready, setup, _ = prepared(cfg, ctx)
    at = made.folder / "again"
    setup = setup.model_copy(update={"out": at.uri, "work": (at / "steps").uri})
    from raylm.mixture.proxy import order_of

    again = train_proxy(order_of("again", ready, setup, targets, arguments.rows, "cpu"))
    assert again.order == what.proxies[2].order
    assert again.losses == pytest.approx(what.proxies[2].losses, abs=1e-4)


def test_what_lies_there_is_used_again_and_another_question_is_refused(found, job_file, capsys):
    made, what, arguments = found
    before = {name: os.stat(made.folder.path(name)).st_mtime_ns for name in made.folder.files() if name.startswith("proxies/")}
    again = tuned(tuning(arguments), arguments)
    assert again.shares == what.shares and again.measured == what.measured
    assert before == {name: os.stat(made.folder.path(name)).st_mtime_ns for name in before}
    with pytest.raises(DriftError, match=r"differs in steps(.|\n)*--anew"):
        tuning(asked(job_file, "--steps", "41", "--unseen", "3"))


def test_what_cannot_be_tuned_is_refused_before_anything_starts(job_file, capsys):
    for words, said in (
        (["a"], "no train stage"),
        (["base", "--proxies", "5"], "need at least 6"),
        (["base", "--set", "stages.base.rows=a"], "nothing to tune"),
        (["base", "--steps", "0"], "at least 1"),
    ):
        assert main(["tune-mixture", str(job_file), *words]) == 1
        assert said in capsys.readouterr().err
    made = tuning(asked(job_file, "--unseen", "3"))
    first = open_artifact(made.job.folder("a"))
    assert _tokenizer(first)
    for target, said in ((["a=0"], "weight above 0"), (["a=x"], "no number"), (["a", "a=2"], "named once")):
        made._arguments.target = target
        with pytest.raises(ConfigError, match=said):
            made.targets(first)
    made._arguments.target = ["c=3", "a"]
    assert [(target.name, target.weight) for target in made.targets(first)] == [("c", 0.75), ("a", 0.25)]


def of_law(job_file, loss, *words, caps=None):
    """The search with proxies whose losses are `loss(shares)`, without training any."""
    arguments = asked(job_file, *words)
    made = tuning(arguments)
    natural, targets = np.array([0.8, 0.15, 0.05]), made.targets(open_artifact(made.job.folder("a")))
    caps = caps_of([400, 80, 40], 320, 20) if caps is None else caps
    given = Asked(["a", "b", "c"], targets, natural, caps, [400, 80, 40], 320, arguments)

    def train(mixtures, names):
        return [
            Result(name, shares, dict(zip("abc", loss(np.array(shares), name), strict=True)), 1, 1, 0.0, name)
            for shares, name in zip(mixtures, names, strict=True)
        ]

    return find(given, train)


def test_no_mixture_is_chosen_where_proxies_say_nothing(job_file):
    rng = np.random.default_rng(0)
    found = of_law(job_file, lambda shares, name: rng.normal(3, 0.1, 3), "--unseen", "3")
    assert "below --min-rank 0.7" in found.refused and found.chosen is None
    assert len(found.unseen) == 3 and found.chosen_loss is None


def test_no_mixture_is_chosen_that_is_worse_once_it_is_trained(job_file):
    def loss(shares, name):
        return 2 + 0.3 * shares**-0.3 + (5.0 if name.startswith("chosen") else 0.0)

    found = of_law(job_file, loss, "--unseen", "3")
    assert "keep that" in found.refused and found.chosen is not None


def test_no_mixture_is_chosen_whose_proxy_has_no_loss_and_what_was_chosen_before_is_gone(job_file, tmp_path):
    def loss(shares, name):
        return 2 + 0.3 * shares**-0.3 + (float("nan") if name.startswith("chosen") else 0.0)

    found = of_law(job_file, loss, "--unseen", "3")
    assert "keep that" in found.refused
    made = tuning(asked(job_file, "--unseen", "3"))
    made.folder = Folder(tmp_path)
    made.folder.write("best.toml", "of fewer proxies")
    made.write_best(found, "")
    assert not made.folder.exists("best.toml")


def test_what_is_called_natural_is_what_was_trained(job_file):
    """The job draws a for twice as many epochs as --max-epochs allows: what is trained in its place is named, with its loss."""
    found = of_law(job_file, lambda shares, name: 2 + 0.3 * shares**-0.3, "--unseen", "3", caps=np.array([0.4, 1.0, 1.0]))
    assert found.proxies[0].shares[0] == 0.4
    assert any("a 0.800, b 0.150, c 0.050) lies outside" in line and "a 0.400" in line for line in found.lines)
    (chosen,) = [line for line in found.lines if line.startswith("chosen: ")]
    assert f"natural: a 0.400, b 0.450, c 0.150; measured {found.natural_loss:.4f}" in chosen
    inside = of_law(job_file, lambda shares, name: 2 + 0.3 * shares**-0.3, "--unseen", "3")
    assert not any("lies outside" in line for line in inside.lines)


def test_a_process_that_is_killed_costs_its_proxy_alone(found, tmp_path):
    from raylm.mixture.proxy import order_of
    from raylm.train.stage import prepared

    made, what, arguments = found
    targets, orders = made.targets(open_artifact(made.job.folder("a"))), []
    for name, proxy in zip(("x", "y"), what.proxies, strict=False):
        cfg, setup, _ = prepared(made.proxy(proxy.shares, 300), made.context({}, []))
        setup = setup.model_copy(update={"out": str(tmp_path / name), "work": str(tmp_path / name / "steps")})
        orders.append(order_of(name, cfg, setup, targets, arguments.rows, "cpu"))
    seen = []
    with pytest.raises(TrainingError, match="its process ended with code -9"), Pool(Folder(tmp_path), 1, 1) as pool:

        def heard(result):
            seen.append(result.name)
            os.kill(pool._held[0].pid, signal.SIGKILL)

        pool.train(orders, heard)
    assert seen[0] == "x"
    with Pool(Folder(tmp_path), 1, 1) as pool:
        both = pool.train(orders, lambda result: seen.append(result.name))
    assert seen == ["x", "x", "y"] and both[0].losses == pytest.approx(what.proxies[0].losses, abs=1e-4)


@pytest.mark.long
def test_a_killed_command_goes_on_where_it_was(tmp_path):
    """kill -9 of the command in the middle: its processes leave, and the same command trains only what is missing."""
    path = make_job(tmp_path)
    words = ["--proxies", "10", "--steps", "40", "--rows", "8", "--max-epochs", "20", "--processes", "1"]
    code = (
        "import sys; from raylm.mixture import tune; tune.Tune.make_inputs = lambda self: None\n"
        f"from raylm.cli import main; sys.exit(main(['tune-mixture', {str(path)!r}, 'base', *{words!r}]))"
    )
    folder = tmp_path / "runs" / "j" / "base.mixture" / "proxies"
    first = subprocess.Popen([sys.executable, "-c", code])
    while len(list(folder.glob("0*.json"))) < 3:
        assert first.poll() is None
        time.sleep(0.02)
    first.kill()
    first.wait()
    kept = {at.name: at.stat().st_mtime_ns for at in folder.glob("0*.json")}
    assert 3 <= len(kept) < 10
    time.sleep(3)
    # whoever was training a proxy has left with the command
    assert len(list(folder.glob("0*.json"))) <= len(kept) + 1
    second = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert second.returncode == 0, second.stderr
    assert all((folder / name).stat().st_mtime_ns == at for name, at in kept.items())
    assert len(list(folder.glob("0*.json"))) == 10 and "next: raylm run" in second.stdout


def test_the_shape_of_a_proxy_has_about_a_million_weights():
    large = Llama(hidden_size=2048, num_layers=24, num_heads=16, max_length=1024)
    small = Llama.model_validate(_small(large, 32_000))
    assert 0.7e6 < Llama.model_validate(_small(large, 4096)).num_parameters(4096) < 1.4e6
    # a large vocabulary is most of it, whatever the width
    assert small.num_parameters(32_000) <= 1.4e6 and small.max_length == 1024
    tiny = Llama(hidden_size=64, num_layers=2, num_heads=2)
    assert Llama.model_validate(_small(tiny, 300)) == tiny


def test_a_process_that_hangs_is_not_waited_for_for_ever(tmp_path, monkeypatch):
    pipe = subprocess.PIPE
    monkeypatch.setattr(pool, "SILENT_S", 0.1)
    monkeypatch.setattr(pool, "_start", lambda *_: subprocess.Popen(["sleep", "60"], stdin=pipe, stdout=pipe, text=True))
    with (
        pytest.raises(TrainingError, match="one, two are missing"),
        Pool(Folder(tmp_path), 1, 1) as held,
    ):
        held.train([{"name": name, "digest": "d"} for name in ("one", "two")], lambda _: None)
