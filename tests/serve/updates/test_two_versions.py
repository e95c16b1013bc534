"""Two real replicas go from one checkpoint to the next: a rolling update, a canary that is promoted, one that is given up, and a
rollback, by the commands that users type, with clients who notice nothing."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from collections import defaultdict

import pytest

from raylm.cli import main
from raylm.serve import cluster, stage
from raylm.serve.config import Serve
from raylm.serve.updates.history import Versions
from tests.serve.endpoints import context, free_port
from tests.serve.updates.test_in_place import continued, other_weights

PROMPT, STEPS = [1, 3, 77, 90, 200, 4], 12
pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.slow, pytest.mark.long]


@pytest.fixture(scope="module")
def endpoint(root, workers, checkpoint):
    settings = {"replicas": {"min": 2, "max": 2}, "workers": {"cpus": 0.5}}
    cfg = Serve(model="sft", port=free_port(), start_s=240, **settings)  # type: ignore[arg-type]
    yield stage.run(cfg, context("serve", root, workers, sft=checkpoint.folder))
    workers.release(cluster.HELD)


class Clients(threading.Thread):
    """One after the other, each a conversation of its own, until they are told to go; what each version answered."""

    def __init__(self, endpoint):
        super().__init__(daemon=True)
        self.url, self.key = endpoint.facts["url"], stage.endpoint_key(endpoint)
        self.gone, self.texts, self.failed, self.last = threading.Event(), defaultdict(set), [], ""

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.gone.set()
        self.join(60)

    def run(self):
        body = {"model": "raylm", "prompt": PROMPT, "max_tokens": STEPS, "temperature": 0, "ignore_eos": True}
        headers = {"content-type": "application/json", "authorization": f"Bearer {self.key}"}
        number = 0
        while not self.gone.is_set():
            number += 1
            data = json.dumps({**body, "return_token_ids": True, "user": f"client {number}"}).encode()
            try:
                with urllib.request.urlopen(
                    urllib.request.Request(f"{self.url}/completions", data, headers), timeout=60
                ) as reply:
                    self.last = reply.headers["x-raylm-served"]
                    self.texts[self.last].add(tuple(json.loads(reply.read())["choices"][0]["token_ids"]))
            except OSError as cause:
                self.failed.append(repr(cause))
            time.sleep(0.02)


def until(true, what, seconds=120.0):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def test_by_the_commands_versions_come_and_go_and_no_request_fails(endpoint, root, workers, checkpoint, capfd):
    second, third = (other_weights(root, workers, name, seed) for name, seed in (("sft2", 8), ("sft3", 9)))
    versions = Versions.of(endpoint.folder)
    says = {
        each: {tuple(continued(uri, PROMPT, STEPS))}
        for each, uri in ((checkpoint.fingerprint, checkpoint.uri), ("of-sft2", second.uri), ("of-sft3", third.uri))
    }

    def whole(clients, *seen):
        # each answer is of one version, whole, and is what transformers says of it
        assert clients.failed == [] and set(clients.texts) == set(seen)
        assert clients.texts == {each: says[each] for each in seen}

    with Clients(endpoint) as clients:
        until(lambda: clients.last, "nobody is answered")
        assert main(["update", endpoint.uri, second.uri, "--rolling", "--why", "better"]) == 0
        clients.texts["of-sft2"].clear()
        until(lambda: clients.texts["of-sft2"], "nobody has the new version")
    whole(clients, checkpoint.fingerprint, "of-sft2")
    assert clients.last == "of-sft2"
    with Clients(endpoint) as clients:
        # a copy of each request to the old version, and half of the conversations
        canary = ["--canary", "0.5", "--shadow", "1", "--for", "3s", "--why", "better still"]
        assert main(["update", endpoint.uri, third.uri, *canary]) == 0
        until(lambda: clients.last == "of-sft3", "nobody has the new version")
    whole(clients, "of-sft2", "of-sft3")
    current = versions.current("raylm")
    assert current is not None and (current.fingerprint, current.how) == ("of-sft3", "rolling")
    figures = current.figures
    assert figures["new"]["answers"] > 0 and figures["new"]["failed"] == figures["old"]["failed"] == 0
    # greedy answers of other weights are other ones
    assert figures["copies"]["sent"] > 0 and figures["copies"]["failed"] == figures["copies"]["agreed"] == 0
    with Clients(endpoint) as clients:
        assert main(["update", endpoint.uri, second.uri, "--canary", "0.5", "--for", "1h", "--detach"]) == 0
        until(lambda: (at := versions.progress()) is not None and at.phase == "canary", "no canary stands")
        until(lambda: "of-sft2" in clients.texts, "nobody meets the canary")
        assert main(["rollback", endpoint.uri, "--why", "a whim"]) == 0
        until(lambda: clients.last == "of-sft3", "the old version is gone")
    whole(clients, "of-sft2", "of-sft3")
    at = versions.progress()
    assert at is not None and at.phase == "stopped" and "given up" in at.said[-1] and "a whim" in at.said[-1]
    # and back to where it began, by fingerprint
    assert main(["rollback", endpoint.uri, checkpoint.fingerprint]) == 0
    with Clients(endpoint) as clients:
        until(lambda: clients.last, "nobody is answered")
    whole(clients, checkpoint.fingerprint)
    assert main(["rollout", endpoint.uri]) == 0
    told = capfd.readouterr().out
    assert all(fingerprint in told for fingerprint in says) and "better still" in told
    story = [(each.fingerprint, each.why.partition(" by ")[0]) for each in versions.read()]
    first = checkpoint.fingerprint
    assert story == [(first, "better"), ("of-sft2", "better still"), ("of-sft3", "rolled back"), (first, "")]
