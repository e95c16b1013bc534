"""`raylm demo`: starts a page in a process and an environment of its own, or writes it as a Space."""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from raylm.core.errors import ArtifactError, ConfigError, PlanError
from raylm.serve.demo import environment, folder
from raylm.serve.demo.places import ENDPOINT, HOST, KEY, LOOPBACK, MODEL, PORT, SECOND, TIED, TITLE, base

START_S = 120.0
END_S = 3.0
"""Seconds that a page gets to end by itself: there is nothing that it could lose, and Streamlit waits for pages that are open."""
# of raylm's own environment, or of the shell: nothing that a page reads
_LEFT_OUT = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", ENDPOINT, KEY, MODEL, ENDPOINT + SECOND, KEY + SECOND, MODEL + SECOND)


class Target(NamedTuple):
    """An endpoint that a page talks to."""

    url: str
    key: str | None
    model: str | None


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of `raylm demo`."""
    parser.add_argument("endpoint", metavar="ENDPOINT|URL", help="folder of a serve stage, or the URL of an OpenAI server")
    parser.add_argument("--second", metavar="ENDPOINT|URL", help="a second one, whose models stand beside the first one's")
    parser.add_argument("--model", metavar="NAME", help="the model to begin with; default: the first that is listed")
    parser.add_argument("--port", metavar="N", type=int, default=7860, help="port of the page (7860)")
    parser.add_argument(
        "--host", metavar="ADDRESS", default="127.0.0.1", help="address to listen on; default: this machine alone"
    )
    parser.add_argument("--streamlit", action="store_true", help="the page of Streamlit instead of Gradio's")
    parser.add_argument("--space", metavar="FOLDER", type=Path, help="write a folder that runs as a Hugging Face Space, and end")
    parser.epilog = f"Of a URL the key is what {KEY} holds ({KEY}{SECOND} for the second); of a folder it is read from there."


def run(arguments: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C, or write the Space."""
    if arguments.space is not None and arguments.streamlit:
        raise PlanError(
            "a Space is written with Gradio's page: Hugging Face runs Streamlit in containers alone", next="leave out --streamlit"
        )
    first = target(arguments.endpoint, KEY)
    first = first._replace(model=arguments.model or first.model)
    second = target(arguments.second, KEY + SECOND) if arguments.second else None
    if arguments.space is not None:
        written = folder.write_space(arguments.space, first.model or "raylm")
        print("\n".join(f"{arguments.space}/{name}" for name in written))
        print(f"next: make a Space of it, and set {ENDPOINT} and {KEY} among its secrets (README.md says how)")
        return 0
    page = "streamlit" if arguments.streamlit else "gradio"
    _check_port(arguments.host, arguments.port)
    python = environment.make(page)
    with tempfile.TemporaryDirectory(prefix="raylm-demo-") as room:
        at = folder.link(Path(room), page)
        variables = _variables(first, second, arguments) | {"GRADIO_TEMP_DIR": f"{room}/gradio"}
        # the pipe ends with this process, however it ends, and the page with the pipe
        process = subprocess.Popen(
            [str(python), "app.py"], cwd=at, env=variables, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
        )
        try:
            _await(process, arguments.host, arguments.port)
            print(f"{page} page of {first.url} at http://{_shown(arguments.host)}:{arguments.port} (Ctrl-C ends it)", flush=True)
            if arguments.host not in LOOPBACK:
                print("everybody who reaches this address talks to the endpoint, with its key", flush=True)
            return process.wait()
        except KeyboardInterrupt:
            return 0
        finally:
            process.terminate()
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def target(what: str, variable: str) -> Target:
    """The endpoint in a folder, or at a URL.

    Raises:
        ArtifactError: a folder that is none of a serve stage.
    """
    if what.startswith(("http://", "https://")):
        return Target(base(what), os.environ.get(variable), None)
    from raylm.core.artifact import Endpoint, open_artifact
    from raylm.core.storage import Folder
    from raylm.serve.stage import endpoint_key

    found = open_artifact(Folder(what))
    if not isinstance(found, Endpoint):
        raise ArtifactError(
            f"a demo needs an Endpoint, this is a {found.kind}", where=found.uri, next="name the folder of a serve stage"
        )
    facts: dict[str, Any] = found.facts
    return Target(base(facts["url"]), endpoint_key(found), facts.get("model_name"))


def _variables(first: Target, second: Target | None, arguments: argparse.Namespace) -> dict[str, str]:
    """What the page's process has in its environment: this one's, without what is set here."""
    kept = {name: value for name, value in os.environ.items() if name not in _LEFT_OUT}
    said = {
        HOST: arguments.host,
        PORT: str(arguments.port),
        TITLE: first.model or "raylm demo",
        TIED: "1",
        "PYTHONNOUSERSITE": "1",
    }
    for at, one in (("", first), (SECOND, second)):
        if one is not None:
            values = {ENDPOINT: one.url, KEY: one.key, MODEL: one.model}
            said |= {name + at: value for name, value in values.items() if value}
    return kept | said


def _check_port(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as asked:
        asked.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            asked.bind((host, port))
        except OSError as cause:
            raise ConfigError(
                f"the page cannot listen on {host}:{port}", next="choose another --port, or another --host"
            ) from cause


def _await(process: subprocess.Popen[bytes], host: str, port: int) -> None:
    ends = time.monotonic() + START_S
    while time.monotonic() < ends:
        if process.poll() is not None:
            raise ConfigError(f"the page's process ended with {process.returncode}; its own words stand above")
        try:
            socket.create_connection((_reached(host), port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise ConfigError(f"the page did not listen on {host}:{port} within {START_S:g} s")


def _reached(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
