"""The command line. Thin: every command calls one function and ends by naming the next command."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
from typing import Any

from raylm import __version__
from raylm.cluster.commands import add_commands as add_cluster_commands
from raylm.core import coming
from raylm.core.errors import RaylmError
from raylm.core.secret_words import looks_secret
from raylm.mixture.commands import add_command as add_mixture_command
from raylm.serve.commands import add_commands as add_endpoint_commands
from raylm.sweep.commands import add_command as add_sweep_command


def main(argv: list[str] | None = None) -> int:
    """Run one command; 0 is done, 1 an error said in words, 2 a wrong command line, 130 stopped by Ctrl-C."""
    words = sys.argv[1:] if argv is None else argv
    arguments = _parser(words[:1] == ["convert"]).parse_args(words)
    try:
        return arguments.command(arguments)
    except RaylmError as error:
        _print_error(error)
        return 1
    except KeyboardInterrupt:
        # Ray and rich may still print while they go down; the sentence comes first and a second Ctrl-C cuts all short
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        print(f"\nStopped. Finished stages and step checkpoints are kept; `{_again(argv)}` goes on from there.", file=sys.stderr)
        return 130


def _plan(arguments: argparse.Namespace) -> int:
    from raylm import job, view

    loaded = job.load(arguments.job, arguments.set)
    if arguments.explain:
        view.explain(loaded)
        return 0
    if arguments.suggest:
        return _suggest(loaded, arguments)
    steps = job.plan(loaded, arguments.rebuild, arguments.only)
    view.plan(loaded, steps)
    if arguments.cluster:
        view.machines(loaded, steps)
    if arguments.samples:
        from raylm import samples

        samples.show(loaded, steps, arguments.samples)
    drifted = [step.name for step in steps if step.state == "drift"]
    options = ["--only", arguments.only] if arguments.only else []
    options += [word for key in arguments.set for word in ("--set", key)]
    options += [word for name in [*arguments.rebuild, *drifted] for word in ("--rebuild", name)]
    print(f"next: {shlex.join(['raylm', 'run', arguments.job, *options])}")
    return 1 if drifted else 0


def _suggest(loaded: Any, arguments: argparse.Namespace) -> int:
    from raylm.estimate import suggest

    for number, (told, toml) in enumerate(suggest(loaded, arguments.suggest), 1):
        print(f"{number}. {told}\n" + "".join(f"   {line}\n" for line in toml.splitlines()))
    print(f"next: put the lines of one into [stages.{arguments.suggest}], then raylm plan {arguments.job}")
    return 0


def _check(loaded: Any, only: str | None, rebuild: list[str]) -> None:
    """What `raylm plan` refuses must not be found hours later, after all stages before it."""
    from raylm import job
    from raylm.absent import check_files
    from raylm.estimate import check

    steps = job.plan(loaded, rebuild, only)
    for step in steps:
        check_files(step)
        check(loaded, step, steps)


def _run(arguments: argparse.Namespace) -> int:
    from raylm import job
    from raylm.core.config import ENDPOINT
    from raylm.run_page import page_of

    coming.expect(arguments.may_come)
    loaded = job.load(arguments.job, arguments.set)
    _check(loaded, arguments.only, arguments.rebuild)
    made = job.run(loaded, arguments.only, arguments.rebuild, command=_again_of(arguments))
    last = list(made.values())[-1]
    if last.made != ENDPOINT:
        print(f"next: raylm show {last.uri}\npage of this run: {page_of(loaded)}")
        return 0
    print(f"serving {last.facts['model_name']} at {last.facts['url']}\nnext: raylm chat {last.uri}   (Ctrl-C here stops serving)")
    print(f"page of this run: {page_of(loaded)}", flush=True)
    import os

    from raylm.core.workers import SUBMITTED, stay

    if SUBMITTED not in os.environ:
        stay()
    return 0


def _show(arguments: argparse.Namespace) -> int:
    from raylm import view

    if arguments.rollouts is not None:
        view.show_rollouts(arguments.what, arguments.rollouts)
    elif arguments.step is not None:
        view.show_step(arguments.what, arguments.step)
    else:
        view.show(arguments.what)
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from raylm import doctor

    if arguments.address:
        from raylm.cluster.commands import examine

        return examine(arguments)
    return doctor.report()


def _convert(arguments: argparse.Namespace) -> int:
    from raylm import convert

    return convert.run(arguments)


def _merge(arguments: argparse.Namespace) -> int:
    from raylm import merge

    return merge.run(arguments)


def _push(arguments: argparse.Namespace) -> int:
    from raylm import push

    return push.run(arguments)


def _find_lr(arguments: argparse.Namespace) -> int:
    from raylm import job
    from raylm.core.config import did_you_mean
    from raylm.core.errors import ConfigError
    from raylm.core.room import total
    from raylm.core.workers import Workers
    from raylm.train import find_lr
    from raylm.train.config import Train

    loaded, stage = job.load(arguments.job, arguments.set), arguments.stage
    cfg = loaded.stages.get(stage)
    if not isinstance(cfg, Train):
        raise ConfigError(f"{stage!r} is no train stage of this job.{did_you_mean(stage, loaded.stages)}", where=arguments.job)
    workers = Workers(wanted_cpus=total(cfg.roles()) + 2)
    ctx = job.aside(loaded, stage, "find_lr", workers)
    try:
        found = find_lr.find(cfg, ctx, arguments.steps, arguments.lowest, arguments.highest)
    finally:
        workers.stop()
    find_lr.report(stage, ctx.metric_rows, found)
    print(f"picture: {ctx.out.path(find_lr.PICTURE)}")
    print(f"next: raylm plan {arguments.job} --set stages.{stage}.optimizer.lr={min(found):.1e}")
    return 0


def _chat(arguments: argparse.Namespace) -> int:
    from raylm import chat, chat_lines, job
    from raylm.core.artifact import Endpoint, open_artifact
    from raylm.core.config import ENDPOINT
    from raylm.core.errors import ArtifactError, PlanError
    from raylm.core.storage import Folder
    from raylm.run_page import page_of

    history = None if arguments.no_history else chat_lines.history_file()
    options: Any = {"system": arguments.system, "history": history}
    if arguments.what.endswith(".toml"):
        loaded = job.load(arguments.what, arguments.set)
        if not any(cfg.makes() == ENDPOINT for cfg in loaded.stages.values()):
            raise PlanError("a chat needs an endpoint, this job has no serve stage", where=arguments.what)
        _check(loaded, None, arguments.rebuild)
        endpoint = list(job.run(loaded, rebuild=arguments.rebuild, command=_again_of(arguments)).values())[-1]
        print(f"page of this run: {page_of(loaded)}", flush=True)
    elif arguments.set or arguments.rebuild:
        raise PlanError("--set and --rebuild are for a job file", where=arguments.what)
    elif arguments.what.startswith(("http://", "https://")):
        return chat.chat(arguments.what, arguments.key, arguments.model, **options)
    else:
        endpoint = open_artifact(Folder(arguments.what))
    if not isinstance(endpoint, Endpoint):
        raise ArtifactError(
            f"a chat needs an Endpoint, this is a {endpoint.kind}", where=endpoint.uri, next="end the job with a serve stage"
        )
    from raylm.serve.stage import endpoint_key

    key = arguments.key or endpoint_key(endpoint)
    return chat.chat(endpoint.facts["url"], key, arguments.model or endpoint.facts["model_name"], **options)


def _parser(converts: bool = True) -> argparse.ArgumentParser:
    """The command line; with `converts` also the options of `convert`, which are those of the formats and imported for it."""
    parser = argparse.ArgumentParser(
        prog="raylm",
        description="Takes a language model from raw text to an autoscaled endpoint.",
        epilog="first steps: raylm doctor; raylm plan jobs/quickstart.toml",
    )
    parser.add_argument("--version", action="version", version=f"raylm {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    plan = _command(commands, "plan", _plan, "check a job and show what it would do; starts and writes nothing")
    plan.add_argument("job", metavar="JOB", help="a job file, for example jobs/quickstart.toml")
    plan.add_argument("--only", metavar="STAGE", help="this stage and what it needs alone")
    plan.add_argument("--explain", action="store_true", help="print every key that the job's stages take, with its meaning")
    plan.add_argument("--samples", metavar="N", type=int, default=0, help="print N rows of each finished tokenize stage as text")
    plan.add_argument("--suggest", metavar="STAGE", help="layouts for a train stage on its `workers`, fastest first")
    plan.add_argument("--cluster", action="store_true", help="print the machines that the job needs, stage by stage")
    run = _command(commands, "run", _run, "run a job; finished stages are reused, unfinished ones go on")
    run.add_argument("job", metavar="JOB", help="a job file")
    run.add_argument("--only", metavar="STAGE", help="run only this stage and what it needs")
    coming.add_option(run)
    show = _command(commands, "show", _show, "what an artifact is, how it was made, from what and for what")
    show.add_argument("what", metavar="URI|JOB", help="folder of an artifact, or a job file")
    show.add_argument("--step", metavar="N", type=int, help="of a trained checkpoint: the documents that step N learned from")
    show.add_argument("--rollouts", metavar="N", type=int, help="of an rl stage: what iteration N drew, scored and learned from")
    doctor = _command(commands, "doctor", _doctor, "what this machine has, what is missing and the command that mends it")
    doctor.add_argument("--address", metavar="URL", help="look at a live cluster instead: its dashboard, http://HEAD:8265")
    doctor.add_argument("--root", metavar="URI", help="with --address: every machine must see what is written there")
    doctor.add_argument("--python", default="python", help="with --address: interpreter there that has raylm")
    convert = _command(commands, "convert", _convert, "write a checkpoint in another format, or read one of another program")
    if converts:
        from raylm.convert import add_options

        add_options(convert)
    pushing = _add_hub_commands(commands)
    find = _command(commands, "find-lr", _find_lr, "try growing learning rates on a train stage and suggest one")
    find.add_argument("job", metavar="JOB", help="a job file; what the stage reads has been made")
    find.add_argument("stage", metavar="STAGE", help="a train stage")
    find.add_argument("--steps", metavar="N", type=int, default=100, help="number of steps, each with a larger rate")
    find.add_argument("--from", dest="lowest", metavar="LR", type=float, default=1e-6, help="the first rate")
    find.add_argument("--to", dest="highest", metavar="LR", type=float, default=1.0, help="the last rate")
    sweep = add_sweep_command(commands, _command)
    tuning = add_mixture_command(commands, _command)
    chat = _command(commands, "chat", _chat, "talk to a served model; a job file is run (or resumed) first")
    chat.add_argument("what", metavar="JOB|URI|URL", help="a job file, an endpoint's folder, or the URL of an OpenAI server")
    chat.add_argument("--key", help="API key; read from the endpoint's folder when it is not given")
    chat.add_argument("--model", default=None, help="model name; default: the one of the folder, or the first that a URL lists")
    chat.add_argument("--system", metavar="TEXT", default="", help="system prompt; /system changes it")
    chat.add_argument("--no-history", action="store_true", help="keep nothing of what is typed in ~/.local/state/raylm")
    add_endpoint_commands(commands, _command)
    rendering, submitting = add_cluster_commands(commands, _command)
    for taker in (plan, run, chat, find, pushing, sweep, tuning, rendering, submitting):
        taker.add_argument(
            "--set",
            metavar="KEY=VALUE",
            action="append",
            default=[],
            help="override a key: stages.sft.steps=10; or a file of keys",
        )
    for taker in (plan, run, chat, submitting):
        taker.add_argument("--rebuild", metavar="STAGE", action="append", default=[], help="make this stage again")
    return parser


def _add_hub_commands(commands: Any) -> argparse.ArgumentParser:
    merging = _command(commands, "merge", _merge, "fold a LoRA adapter into the model it was trained beside")
    merging.add_argument("adapter", metavar="ADAPTER", help="a folder in peft's layout, a train stage's folder, or a hub name")
    merging.add_argument("base", metavar="BASE", help="the model that it was trained beside: a folder or a hub name")
    merging.add_argument("out", metavar="OUT", help="a new folder")
    merging.add_argument(
        "--dtype", choices=["auto", "float32", "bfloat16", "float16"], default="auto", help="default: BASE's own"
    )
    merging.add_argument("--max-nats", metavar="X", type=float, help="largest mean difference of a token's log-probability")
    merging.add_argument("--unchecked", action="store_true", help="do not compare: for what this machine cannot hold")
    pushing = _command(commands, "push", _push, "send a checkpoint, its adapter and a model card to a hub")
    pushing.add_argument("job", metavar="JOB", help="a job file")
    pushing.add_argument("stage", metavar="STAGE", help="a finished stage that makes a checkpoint")
    pushing.add_argument("repo", metavar="REPO", help="OWNER/NAME; made where it is not there, private")
    which = pushing.add_mutually_exclusive_group()
    which.add_argument("--adapter", dest="only", action="store_const", const="adapter", help="the adapter alone")
    which.add_argument("--merged", dest="only", action="store_const", const="merged", help="the merged model alone")
    pushing.add_argument("--base", metavar="NAME", help="the hub's name of the model under the adapter")
    pushing.add_argument("--license", metavar="KEY", help="licence on the card, as the hub spells it: apache-2.0")
    pushing.add_argument("--revision", metavar="BRANCH", help="a branch, made where it is not there")
    pushing.add_argument("--tag", metavar="TAG", help="a tag of the new commit")
    pushing.add_argument("--public", action="store_true", help="let everybody read it")
    pushing.add_argument("--endpoint", metavar="URL", help="another hub; default: HF_ENDPOINT, or huggingface.co")
    pushing.add_argument("--dry-run", action="store_true", help="print files and card, send nothing")
    return pushing


def _command(commands: Any, name: str, function: Any, help: str) -> argparse.ArgumentParser:
    made = commands.add_parser(name, help=help, description=help)
    made.set_defaults(command=function)
    return made


def _print_error(error: RaylmError) -> None:
    red, plain = ("\033[31m", "\033[0m") if sys.stderr.isatty() else ("", "")
    print(f"{red}error:{plain} {error}", file=sys.stderr)
    if error.__cause__ is not None and (words := str(error.__cause__).strip()):
        print(f"  because: {type(error.__cause__).__name__}: {words.splitlines()[-1]}", file=sys.stderr)


def _again_of(arguments: argparse.Namespace) -> str:
    """`_again`, of parsed arguments: what the page of a run names. The page may be passed on: what looks secret is left out."""
    verb, job = ("chat", arguments.what) if hasattr(arguments, "what") else ("run", arguments.job)
    only = ["--only", arguments.only] if getattr(arguments, "only", None) else []
    return shlex.join(["raylm", verb, job, *only, *(word for key in arguments.set for word in ("--set", _shown(key)))])


def _shown(assignment: str) -> str:
    return f"{assignment.partition('=')[0]}=..." if looks_secret(assignment) else assignment


def _again(argv: list[str] | None) -> str:
    """The command that goes on: --rebuild and --anew have done their part, and would begin anew."""
    words = sys.argv[1:] if argv is None else argv
    kept = [word for at, word in enumerate(words) if at == 0 or words[at - 1] != "--rebuild"]
    return shlex.join(["raylm", *(word for word in kept if word.partition("=")[0] not in ("--rebuild", "--anew"))])
