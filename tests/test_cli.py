"""The command line: exit codes, one sentence per error, the next command at the end."""

import subprocess
import sys
from pathlib import Path

import pytest

from raylm import job
from raylm.cli import _again, _again_of, _parser, main
from raylm.core.artifact import Documents, Tokens
from tests.test_job import finish, write

ROOT = Path(__file__).resolve().parents[1]


def test_plan_ends_with_the_next_command_and_writes_nothing(tmp_path, capsys):
    path = write(tmp_path)
    assert main(["plan", str(path)]) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[-1] == f"next: raylm run {path}"
    assert "3 stages to do" in said
    assert sorted(p.name for p in tmp_path.iterdir()) == ["job.toml"]


def test_plan_says_parameters_and_tokens(tmp_path, capsys):
    path = write(tmp_path)
    main(["plan", str(path), "--set", "stages.base.steps=1000"])
    said = capsys.readouterr().out
    # 300 * 32 embeddings, one block of 4 * 32 * 32 + 3 * 32 * 128 + 2 * 32, a last norm of 32; 1000 * 4 rows of 8 tokens
    assert "26.1 k parameters" in said
    assert "32 k tokens at most" in said
    assert "per rank at micro_batch 4" in said


def test_plan_explains_every_key(tmp_path, capsys):
    assert main(["plan", str(write(tmp_path)), "--explain"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "batch (default None): Global batch in rows" in said
    assert "vocab_size" in said


def test_a_mistake_is_one_error_with_exit_code_1(tmp_path, capsys):
    path = write(tmp_path, lambda text: text.replace("batch = 4", "bach = 4"))
    assert main(["plan", str(path)]) == 1
    said = capsys.readouterr().err
    assert "bach: unknown key. Did you mean 'batch'?" in said
    assert "Traceback" not in said


def test_drift_is_refused_with_the_flag_that_rebuilds(tmp_path, capsys):
    path = write(tmp_path)
    finish(tmp_path, job.load(path), "docs", Documents)
    finish(tmp_path, job.load(path), "tokens", Tokens)
    assert main(["run", str(path), "--set", "stages.tokens.form.length=16"]) == 1
    said = capsys.readouterr().err
    assert "form.length 8 -> 16" in said
    assert "--rebuild tokens" in said


def test_chat_takes_the_flag_that_its_own_advice_names(tmp_path, capsys):
    serve = '[stages.api]\nstage = "serve"\nmodel = "base"\n'
    path = write(tmp_path, lambda text: text + serve)
    finish(tmp_path, job.load(path), "docs", Documents)
    finish(tmp_path, job.load(path), "tokens", Tokens)
    drifted = ["chat", str(path), "--set", "stages.tokens.form.length=16"]
    assert main(drifted) == 1
    advice = next(line for line in capsys.readouterr().err.splitlines() if "next:" in line)
    assert "add --rebuild tokens" in advice
    # the flag reaches the run of the job, which knows its stages
    assert main([*drifted, "--rebuild", "tokns"]) == 1
    assert "--rebuild tokns: no such stage. Did you mean 'tokens'?" in capsys.readouterr().err
    assert main(["chat", str(tmp_path / "t" / "docs"), "--rebuild", "tokens"]) == 1
    assert "are for a job file" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--rebuild", "tokens"], ["--rebuild=tokens"]])
def test_the_command_that_goes_on_rebuilds_nothing_again(words):
    assert _again(["run", "my job.toml", *words, "--only", "base"]) == "raylm run 'my job.toml' --only base"


def test_show_walks_the_lineage_both_ways(tmp_path, capsys):
    path = write(tmp_path)
    finish(tmp_path, job.load(path), "docs", Documents)
    finish(tmp_path, job.load(path), "tokens", Tokens)
    assert main(["show", str(tmp_path / "t" / "docs")]) == 0
    said = capsys.readouterr().out
    assert "Documents" in said
    assert "tokens: Tokens" in said
    assert main(["show", str(tmp_path / "t" / "tokens")]) == 0
    assert "documents: Documents" in capsys.readouterr().out
    assert main(["show", str(tmp_path)]) == 1
    assert "nothing finished is here" in capsys.readouterr().err


def test_chat_wants_an_endpoint(tmp_path, capsys):
    path = write(tmp_path)
    finish(tmp_path, job.load(path), "docs", Documents)
    assert main(["chat", str(tmp_path / "t" / "docs")]) == 1
    assert "a chat needs an Endpoint" in capsys.readouterr().err


def test_chat_with_an_address_where_nothing_answers_is_one_sentence(tmp_path, capsys):
    assert main(["chat", "http://127.0.0.1:9/v1"]) == 1
    assert "Nothing answers at http://127.0.0.1:9/v1" in capsys.readouterr().out
    assert main(["chat", str(tmp_path)]) == 1
    assert "nothing finished is here" in capsys.readouterr().err


def test_help_names_every_command():
    done = subprocess.run([sys.executable, "-m", "raylm", "--help"], capture_output=True, text=True, check=True)
    for name in ("plan", "run", "show", "doctor", "chat"):
        assert f"\n    {name} " in done.stdout


@pytest.mark.parametrize("arguments", [[], ["plan"], ["fly"]])
def test_a_wrong_command_line_is_exit_code_2(arguments):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


def test_doctor_finds_this_environment_whole(capsys):
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "ray 2.60.0" in said
    assert "missing" not in said.split()


def test_the_page_names_a_command_without_secrets():
    words = ["run", "j.toml", "--only", "a", "--set", "stages.a.batch_tokens=9", "--set", "stages.a.api_key=abc"]
    words += ["--set", "stages.a.source.uri=https://me:pw@host/x"]
    shown = _again_of(_parser().parse_args(words))
    assert shown == (
        "raylm run j.toml --only a --set stages.a.batch_tokens=9 --set stages.a.api_key=... --set stages.a.source.uri=..."
    )
