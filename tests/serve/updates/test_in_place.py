"""A real endpoint is updated in place under streams, refuses weights that are not what they are said to be, and goes back."""

from __future__ import annotations

import json
import shutil
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from raylm.cli import main
from raylm.core.artifact import Checkpoint
from raylm.model.load import load_model
from raylm.serve import cluster, stage
from raylm.serve.audit import Audit, audit_folder
from raylm.serve.config import Serve
from raylm.serve.updates.history import Versions, now
from tests.model.tiny import tiny_model
from tests.serve.endpoints import context, free_port

STREAMED = [1, 3, 77, 90, 200, 4]
pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.slow, pytest.mark.long]


@pytest.fixture(scope="module")
def endpoint(root, workers, checkpoint):
    cfg = Serve(model="sft", port=free_port(), start_s=240, audit=Audit())
    yield stage.run(cfg, context("serve", root, workers, sft=checkpoint.folder))
    workers.release(cluster.HELD)


def other_weights(root, workers, name, seed):
    """A checkpoint like `sft` with other weights."""
    shutil.copytree((root / "sft").uri, (root / name).uri)
    tiny_model(vocab=512, seed=seed).save_pretrained((root / name).uri)
    made = context(name, root, workers)
    made.fingerprint = f"of-{name}"
    return made.commit(Checkpoint, facts={"dtype": "float32"})


class Streams(threading.Thread):
    """Asks for one long greedy stream after the other, until it is stopped; tokens of each by the number of its request."""

    def __init__(self, endpoint):
        super().__init__(daemon=True)
        self.url, self.key = endpoint.facts["url"], stage.endpoint_key(endpoint)
        self.stopped, self.tokens, self.gaps, self.errors = threading.Event(), {}, [], []
        self.start()

    def run(self):
        body = {"model": "raylm", "prompt": STREAMED, "max_tokens": 400, "temperature": 0, "stream": True, "ignore_eos": True}
        headers = {"content-type": "application/json", "authorization": f"Bearer {self.key}"}
        while not self.stopped.is_set():
            data = json.dumps({**body, "return_token_ids": True}).encode()
            tokens, last = [], None
            with urllib.request.urlopen(urllib.request.Request(f"{self.url}/completions", data, headers), timeout=60) as reply:
                for line in reply:
                    if not line.startswith(b"data: {"):
                        continue
                    event = json.loads(line[6:])
                    self.errors += [event] if "error" in event else []
                    tokens += [token for choice in event.get("choices", ()) for token in choice["token_ids"] or ()]
                    at = time.monotonic()
                    self.gaps.append(at - (last or at))
                    last = at
                self.tokens[reply.headers["x-request-id"]] = tokens

    def stop(self):
        self.stopped.set()
        self.join(60)


def audited(endpoint):
    lines = [line for file in Path(audit_folder(endpoint.folder)).glob("*.jsonl") for line in file.read_text().splitlines()]
    return {line["request"]: line for line in map(json.loads, lines)}


def continued(folder, prompt, steps):
    import torch

    model: Any = load_model(folder, "float32").eval()
    out = model.generate(torch.tensor([prompt]), max_new_tokens=steps, min_new_tokens=steps, do_sample=False, pad_token_id=0)
    return out[0, len(prompt) :].tolist()


def test_an_update_comes_in_place_is_refused_where_it_is_wrong_and_is_rolled_back(endpoint, client, root, workers, checkpoint):
    sft2 = other_weights(root, workers, "sft2", 8)
    versions: Any = Versions.of(endpoint.folder)

    def served():
        return client.models.with_raw_response.list().headers["x-raylm-served"]

    streams = Streams(endpoint)
    assert main(["update", endpoint.uri, sft2.uri, "--in-place", "--why", "better"]) == 0
    time.sleep(0.5)
    streams.stop()
    assert streams.errors == [] and served() == "of-sft2" == versions.current("raylm").fingerprint
    (figures,) = [each for each in versions.current("raylm").figures.values() if "held_s" in each]
    print(f"held {figures['held_s']:.3f} s, longest gap of a stream {max(streams.gaps):.3f} s")
    # of a stream under way: tokens before are of the old weights, those after what the new ones go on with
    crossed = {name: line for name, line in audited(endpoint).items() if line.get("spans")}
    (name,) = crossed.keys() & streams.tokens.keys()
    (_, old, start, at), (_, new, since, end) = crossed[name]["spans"]
    assert (old, start, new, since, end) == (checkpoint.fingerprint, 0, "of-sft2", at, None) and 0 < at < 400
    tokens = streams.tokens[name]
    assert len(tokens) == 400 == crossed[name]["completion_tokens"]
    assert tokens[:at] == continued(checkpoint.uri, STREAMED, at)
    assert tokens[at:] == continued(sft2.uri, [*STREAMED, *tokens[:at]], 400 - at)
    # weights that are not what the reference was computed with: nobody gets a token of them, and no request fails
    streams, asked = Streams(endpoint), versions.asked()
    time.sleep(0.3)
    versions.ask(asked.model_copy(update={"number": now(), "uri": checkpoint.uri, "fingerprint": "planted"}))
    while (progress := versions.progress()).fingerprint != "planted" or not progress.over:
        time.sleep(0.05)
    streams.stop()
    assert progress.phase == "stopped" and "does not say what this checkpoint says" in progress.said[-1]
    assert streams.errors == [] and served() == "of-sft2"
    expected = continued(sft2.uri, STREAMED, 400)
    assert all(tokens == expected for tokens in streams.tokens.values())
    # back, exactly
    assert main(["rollback", endpoint.uri]) == 0 and served() == checkpoint.fingerprint
    assert [each.fingerprint for each in versions.read()] == [checkpoint.fingerprint, "of-sft2", checkpoint.fingerprint]
