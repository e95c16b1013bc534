"""A tiny endpoint, started once: what clients with and without a key get from it."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from raylm.core.artifact import Endpoint, open_artifact
from raylm.serve import cluster, operator, stage
from raylm.serve.audit import Audit, audit_folder
from raylm.serve.config import Serve
from raylm.serve.keys import LOOK_S, KeyFile, add, revoke
from tests.serve.endpoints import context, free_port
from tests.serve.tiny_adapter import write_adapter

PROMPTS = ["Hello there", "What is a list?"]
HI: Any = [{"role": "user", "content": "hi"}]
# a route that no other test here asks for
GUARDS: Any = [
    {"kind": "request_rate", "per_minute": 2, "routes": ["/version"]},
    {"kind": "token_rate", "per_minute": 1_000_000},
    {"kind": "concurrency", "most": 8},
]
FROM_OUTSIDE = "a-key-in-the-environment-of-the-run"
pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.slow]


@pytest.fixture(scope="module")
def endpoint(root, workers, checkpoint):
    os.environ[stage.KEY_VARIABLE] = FROM_OUTSIDE
    workers.ensure()
    del os.environ[stage.KEY_VARIABLE]
    adapters: Any = [{"name": "french", "path": str(write_adapter(Path(checkpoint.uri), Path(root.uri) / "french"))}]
    asked: Any = {"prompts": PROMPTS, "answer_tokens": 8, "start_s": 240, "guards": GUARDS, "audit": Audit()}
    cfg = Serve(model="sft", port=free_port(), adapters=adapters, **asked)
    yield stage.run(cfg, context("serve", root, workers, sft=checkpoint.folder))
    workers.release(cluster.HELD)


def ask(endpoint, path, key=None, body=None):
    """Status and JSON of a plain HTTP request."""
    base = endpoint.facts["url"].removesuffix("/v1")
    headers = {"content-type": "application/json", **({"authorization": f"Bearer {key}"} if key else {})}
    request = urllib.request.Request(base + path, headers=headers, data=json.dumps(body).encode() if body else None)
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as refusal:
        return refusal.code, refusal.read().decode()


def test_no_process_of_the_cluster_shows_a_key(endpoint):
    processes = session_processes("")
    assert len(processes) > 3
    for process in processes:
        for name in ("environ", "cmdline"):
            shown = Path(f"/proc/{process.pid}/{name}").read_text(errors="replace")
            assert FROM_OUTSIDE not in shown
            assert str(stage.endpoint_key(endpoint)) not in shown


def test_the_endpoint_says_what_transformers_says(endpoint, checkpoint):
    facts = endpoint.facts
    assert facts["greedy_equal"] == "8/8"
    assert facts["template_equal"] == "8/8"
    assert 0 <= facts["logprob_nats"] < 1e-4
    assert facts["chat_template"] is True
    assert facts["served"] == checkpoint.fingerprint
    assert [answer["prompt"] for answer in facts["answers"]] == PROMPTS
    assert isinstance(open_artifact(endpoint.folder), Endpoint)
    print("start_s", facts["start_s"])


def test_the_key_is_in_a_file_of_its_owner_alone(endpoint):
    file = Path(endpoint.facts["key_file"])
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(file.read_text().strip()) >= 40
    assert file.read_text().strip() not in json.dumps(endpoint.manifest.model_dump())


@pytest.mark.parametrize("path", ["/v1/models", "/v1/chat/completions", "/tokenize", "/metrics", "/version"])
def test_without_the_key_there_is_nothing(endpoint, path):
    for key in (None, "wrong"):
        status, body = ask(endpoint, path, key)
        assert (status, json.loads(body)["error"]["code"]) == (401, "invalid_api_key")


def test_routes(endpoint):
    key = stage.endpoint_key(endpoint)
    assert ask(endpoint, "/health")[0] == 200
    for path in ("/pause", "/v1/load_lora_adapter", "/docs", "/nowhere"):
        status, body = ask(endpoint, path, key)
        assert (status, json.loads(body)["error"]["code"]) == (404, "unknown_url")
    assert "vllm" in ask(endpoint, "/metrics", key)[1]
    assert json.loads(ask(endpoint, "/tokenize", key, {"model": "raylm", "prompt": "hi"})[1])["count"] > 0


def test_a_guard_limits_the_endpoint(endpoint):
    key = stage.endpoint_key(endpoint)
    assert ask(endpoint, "/version", "wrong")[0] == 401
    assert [ask(endpoint, "/version", key)[0] for _ in range(2)] == [200, 200]
    status, text = ask(endpoint, "/version", key)
    assert status == 429 and json.loads(text)["error"]["code"] == "rate_limit_exceeded"


def test_models(endpoint, client, root):
    import openai

    for path in ("/v1/models", "/v1/models/raylm", "/metrics", "/version"):
        _, body = ask(endpoint, path, stage.endpoint_key(endpoint))
        assert str(Path(root.uri).parent) not in body
    assert [model.id for model in client.models.list()] == ["raylm", "french"]
    assert client.models.retrieve("raylm").id == "raylm"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-9")
    with pytest.raises(openai.NotFoundError) as refused:
        client.chat.completions.create(model="gpt-9", messages=[{"role": "user", "content": "x"}])
    told: Any = refused.value.body
    assert "gpt-9" in told["message"]


def test_streamed_and_whole_answers_are_the_same(client):
    asked = {"model": "raylm", "messages": [{"role": "user", "content": "Tell me"}], "max_tokens": 24, "temperature": 0}
    whole = client.chat.completions.create(**asked)
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage
    assert len(chunks) > 5


def test_too_long_a_prompt_is_a_bad_request(client):
    import openai

    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="raylm", messages=[{"role": "user", "content": "word " * 5000}])


def test_serves_own_pages_are_closed(endpoint):
    assert json.loads(ask(endpoint, "/-/routes")[1])["error"]["code"] == "invalid_api_key"
    assert json.loads(ask(endpoint, "/-/routes", stage.endpoint_key(endpoint))[1])["error"]["code"] == "unknown_url"


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user"}]}),
        ("/v1/chat/completions", {"messages": HI, "temperature": -1}),
        ("/v1/chat/completions", {"messages": HI, "top_k": 2**70}),
        ("/v1/chat/completions", {"messages": HI, "stop": 5}),
        ("/v1/chat/completions", {"messages": HI, "top_logprobs": 1000, "logprobs": True}),
        ("/v1/chat/completions", {"messages": HI, "structured_outputs": {"regex": "("}}),
        ("/v1/chat/completions", {"messages": HI, "tools": [{"type": "function", "function": {"name": "no name"}}]}),
        ("/v1/completions", {"prompt": [10**6]}),
        ("/detokenize", {"tokens": [-1]}),
    ],
)
def test_bad_requests_are_400_in_one_shape(endpoint, path, fields):
    status, body = ask(endpoint, path, stage.endpoint_key(endpoint), {"model": "raylm", **fields})
    error = json.loads(body)["error"]
    assert status == 400
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], isinstance(error["code"], str)) == ("invalid_request_error", True)


def test_tools_are_called_in_the_form_of_the_models_family(client):
    city: Any = {
        "type": "object",
        "properties": {"city": {"enum": ["Oslo", "Rome"]}},
        "required": ["city"],
        "additionalProperties": False,
    }
    asked: Any = {"tools": [{"type": "function", "function": {"name": "weather", "parameters": city}}], "max_tokens": 40}
    named: Any = {"tool_choice": {"type": "function", "function": {"name": "weather"}}}
    turn = client.chat.completions.create(model="raylm", messages=HI, **asked, **named).choices[0].message
    (call,) = turn.tool_calls
    assert call.function.name == "weather" and json.loads(call.function.arguments)["city"] in ("Oslo", "Rome")
    answered: Any = [*HI, turn.model_dump(exclude_none=True), {"role": "tool", "tool_call_id": call.id, "content": "4 degrees"}]
    free = client.chat.completions.create(model="raylm", messages=answered, **asked).choices[0]
    assert free.finish_reason in ("stop", "length", "tool_calls")


def test_json_of_a_form_is_that_form(client):
    schema: Any = {"type": "object", "properties": {"kind": {"enum": ["function", "class"]}, "deep": {"type": "boolean"}}}
    schema |= {"required": ["kind", "deep"], "additionalProperties": False}
    reply: Any = client.chat.completions.create(
        model="raylm",
        messages=HI,
        max_tokens=60,
        response_format={"type": "json_schema", "json_schema": {"name": "k", "schema": schema}},
    )
    made = json.loads(reply.choices[0].message.content)
    assert made["kind"] in ("function", "class")
    assert isinstance(made["deep"], bool)
    # the largest schema that is taken holds up nobody
    wide = {"type": "object", "properties": {f"p{at}": {"type": "string"} for at in range(390)}}
    for spec in ({"json": wide}, {"choice": ["yes"]}):
        started = time.monotonic()
        asked = {"model": "raylm", "messages": HI, "max_tokens": 4, "extra_body": {"structured_outputs": spec}}
        reply = client.chat.completions.create(**asked)
        assert time.monotonic() - started < 30
    assert reply.choices[0].message.content == "yes"


def audited(endpoint, key: str, number: int) -> list[dict[str, Any]]:
    """The lines of a key in the audit log, once there are so many."""
    deadline = time.monotonic() + 20
    while True:
        files = Path(audit_folder(endpoint.folder)).glob("*.jsonl")
        lines = [line for file in files for line in map(json.loads, file.open()) if line["key"] == key]
        if len(lines) >= number:
            return lines
        assert time.monotonic() < deadline, lines
        time.sleep(0.05)


def test_a_key_is_added_counted_audited_and_revoked_while_the_endpoint_stands(endpoint):
    import openai

    file = KeyFile.of(endpoint.folder)
    alice = openai.OpenAI(base_url=endpoint.facts["url"], api_key=add(file, "alice"), max_retries=0, timeout=60)
    time.sleep(LOOK_S)
    whole = alice.chat.completions.with_raw_response.create(model="raylm", messages=HI, max_tokens=3)
    usage = whole.parse().usage
    used = usage.total_tokens
    assert whole.headers["x-ratelimit-remaining-tokens"] == "1000000"
    chunks = list(alice.chat.completions.create(model="raylm", messages=HI, max_tokens=3, stream=True))
    # what the endpoint asked vLLM for its own count is not the client's
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)
    asked: Any = {"stream": True, "stream_options": {"include_usage": True}}
    assert list(alice.chat.completions.create(model="raylm", messages=HI, max_tokens=3, **asked))[-1].usage.total_tokens == used
    # a client has its last word before the gateway has written down what it cost
    audited(endpoint, "alice", 3)
    again = alice.chat.completions.with_raw_response.create(model="raylm", messages=HI, max_tokens=1)
    assert int(again.headers["x-ratelimit-remaining-tokens"]) == 1_000_000 - 3 * used
    revoke(file, "alice")
    time.sleep(LOOK_S)
    with pytest.raises(openai.AuthenticationError):
        alice.models.list()
    hers = audited(endpoint, "alice", 4)
    assert [line["prompt_tokens"] + line["completion_tokens"] for line in hers[:3]] == [used] * 3
    assert {line["model"] for line in hers} == {"raylm"} and {line["status"] for line in hers} == {200}


def test_adapters_are_loaded_and_unloaded_from_a_command_line(endpoint, client, checkpoint, root):
    def greedy(model: str) -> str:
        return client.completions.create(model=model, prompt=[5, 6, 7], max_tokens=12, temperature=0).choices[0].text

    def command(*words: str) -> str:
        """What `raylm adapters` prints, from a process that is no part of the cluster."""
        action, *rest = words
        line = [sys.executable, "-m", "raylm", "adapters", action, endpoint.uri, *rest]
        done = subprocess.run(line, capture_output=True, text=True, timeout=100, check=False)
        return done.stdout + done.stderr

    assert "french" in command("list") and "on 1 of 1 replicas" in command("list")
    names = {model.id: model.model_extra for model in client.models.list()}
    assert set(names) == {"raylm", "french"} and names["french"]["parent"] == "raylm"
    german = write_adapter(Path(checkpoint.uri), Path(root.uri) / "german", seed=1)
    assert "on 1 of 1 replicas" in command("load", "german", str(german))
    assert len({greedy(name) for name in ("raylm", "french", "german")}) == 3
    wide = write_adapter(Path(checkpoint.uri), Path(root.uri) / "wide", r=128)
    assert "has rank 128" in command("load", "wide", str(wide)) and "no model name" in command("load", "../wide", str(wide))
    assert "unloaded" in command("unload", "german")
    deadline = time.monotonic() + 20
    while {model.id for model in client.models.list()} != {"raylm", "french"}:
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize("streamed", [True, False])
def test_a_client_that_leaves_frees_the_engine(endpoint, client, streamed):
    import openai

    key = stage.endpoint_key(endpoint)
    before = metric(ask(endpoint, "/metrics", key)[1], "vllm:generation_tokens_total")
    asked = {"model": "raylm", "prompt": [5, 6, 7], "max_tokens": 500, "temperature": 0, "extra_body": {"ignore_eos": True}}
    if streamed:
        stream = client.completions.create(**asked, stream=True)
        next(iter(stream))
        stream.close()
    else:
        with pytest.raises(openai.APITimeoutError):
            client.completions.create(**asked, timeout=0.15)
    deadline = time.monotonic() + 30
    while metric(page := ask(endpoint, "/metrics", key)[1], "vllm:num_requests_running") > 0:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert metric(page, "vllm:generation_tokens_total") - before < 400


def metric(page, name):
    return sum(float(line.rsplit(" ", 1)[1]) for line in page.splitlines() if line.startswith(name + "{"))


def test_no_log_and_no_state_of_the_cluster_shows_a_secret(endpoint):
    from ray import serve

    view = operator.calls(application())("view")
    secrets = [FROM_OUTSIDE, str(stage.endpoint_key(endpoint)), *(each.address.secret for each in view.replicas)]
    assert len(secrets) > 2 and all(len(secret) > 20 for secret in secrets)
    files = [file for file in (session_folder() / "logs").rglob("*") if file.is_file()]
    shown = {str(file): file.read_text(errors="replace") for file in files}
    assert len(shown) > 10
    shown |= {"serve status": str(serve.status()), "view": str(view), "manifest": endpoint.manifest.model_dump_json()}
    shown |= {str(file): file.read_text() for file in Path(endpoint.uri).parent.glob(".*/*.json*")}
    for where, text in shown.items():
        for secret in secrets:
            assert secret not in text, where


def test_a_dead_engine_costs_no_request(endpoint, client):
    (core,) = engine_cores()
    asked: Any = {"model": "raylm", "prompt": [5, 6, 7], "max_tokens": 300, "temperature": 0, "extra_body": {"ignore_eos": True}}
    whole = client.completions.create(**asked).choices[0].text
    stream = client.completions.create(**asked, stream=True)
    begun = next(iter(stream)).choices[0].text
    core.kill()
    # the only replica is gone: what comes now is held until it stands again, and the stream goes on where it was
    assert client.chat.completions.create(model="raylm", messages=HI, max_tokens=2, timeout=120).usage.completion_tokens == 2
    assert begun + "".join(chunk.choices[0].text for chunk in stream) == whole
    assert [process.pid for process in engine_cores()] != [core.pid]
    page = ask(endpoint, "/metrics", stage.endpoint_key(endpoint))[1]
    assert "raylm_gateway_resumed_total 1" in page
    # what the replica raised was read there; a class of vLLM's would have brought torch with it
    (controller,) = session_processes("ServeController")
    assert "libtorch" not in Path(f"/proc/{controller.pid}/maps").read_text()


def test_a_dead_gateway_comes_again_on_its_port_with_keys_and_counts(endpoint, client):
    import openai

    (gateway,) = session_processes("GatewayActor")
    gateway.kill()
    deadline = time.monotonic() + 60
    while True:
        try:
            again = client.chat.completions.with_raw_response.create(model="raylm", messages=HI, max_tokens=2)
            break
        except openai.APIConnectionError:
            assert time.monotonic() < deadline, "the gateway did not come back"
            time.sleep(0.1)
    assert int(again.headers["x-ratelimit-remaining-tokens"]) <= 1_000_000
    assert ask(endpoint, "/v1/models", "wrong")[0] == 401


def application():
    """Name of the one Serve application of this cluster."""
    from ray import serve

    (name,) = serve.status().applications
    return name


def engine_cores():
    """Engine processes of this Ray session's replica: children of the process that serves."""
    import psutil
    from ray import serve

    facts = serve.get_deployment_handle(cluster.deployment_name(0), application()).facts.remote().result(timeout_s=60)
    return [child for child in psutil.Process(facts["pid"]).children() if "resource_tracker" not in " ".join(child.cmdline())]


def session_processes(name):
    """Processes of this Ray session whose command line holds `name`. Others' endpoints on this machine are not touched."""
    import psutil
    import ray

    session = ray.get_runtime_context().get_session_name()
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if name in " ".join(process.info["cmdline"] or []):
            above = [" ".join(parent.cmdline()) for parent in process.parents()]
            if any(session in line for line in above):
                found.append(process)
    return found


def session_folder():
    """Where this Ray session keeps its logs and sockets."""
    import ray

    folder = os.environ.get("RAY_TMPDIR", os.environ.get("TMPDIR", "/tmp"))
    return Path(folder) / "ray" / ray.get_runtime_context().get_session_name()
