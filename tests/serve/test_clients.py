"""Programs that people have, unchanged, against a replica's app: LangChain, litellm, lm-eval, and what Open WebUI sends."""

from __future__ import annotations

import json
import os
import subprocess
import sysconfig
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from raylm.model.load import load_tokenizer
from tests.bench.near_copies.peers import python_of
from tests.serve.in_process import KEY, ask

pytestmark = [pytest.mark.vllm, pytest.mark.slow]
PACKAGES = ("langchain-openai", "litellm", "lm-eval[api]")
DOCUMENTS = [
    {"question": "hello", "choices": [" there", " list", " statement"], "gold": 1},
    {"question": "the class", "choices": [" is", " object", " method"], "gold": 0},
]
TASK = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files: {{test: {rows}}}
test_split: test
doc_to_text: "{{{{question}}}}"
output_type: {kind}
"""
CHOICES = 'doc_to_choice: "{{choices}}"\ndoc_to_target: "{{gold}}"\nmetric_list: [{metric: acc}]\n'
GENERATES = 'doc_to_target: "x"\ngeneration_kwargs: {max_gen_toks: 6, do_sample: false}\nmetric_list: [{metric: exact_match}]\n'


@pytest.fixture(scope="module")
def clients() -> Path:
    """The Python of an environment with these clients. torch and transformers are this one's own."""
    python = python_of("openai_clients", *PACKAGES)
    packages = next(python.parent.parent.glob("lib/python*/site-packages"))
    (packages / "after.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return python


def calls(python: Path, name: str, url: str) -> dict[str, Any]:
    """What one client got."""
    script = Path(__file__).with_name("client_calls.py")
    command = [str(python), str(script), name, url, KEY]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False, env=_environment())
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "OPENAI_API_KEY")}
    return {**kept, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "OPENAI_API_KEY": KEY, "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}


def expected(url: str, **fields: Any) -> str:
    """A greedy answer of this endpoint, asked without any client."""
    status, text = ask(url, "/v1/chat/completions", {"model": "raylm", "max_tokens": 8, "temperature": 0, **fields})
    assert status == 200, text
    return json.loads(text)["choices"][0]["message"]["content"]


@pytest.mark.long
def test_langchain(tiny, clients):
    found = calls(clients, "langchain", tiny.url)
    turns = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hello"}]
    assert found["whole"] == found["streamed"] == found["responses"] == expected(tiny.url, messages=turns)
    assert found["usage"] == 8 and found["batch"] == 3 and found["completion"]
    assert found["call"]["city"] in ("Oslo", "Rome") and found["form"]["city"] in ("Oslo", "Rome")


@pytest.mark.long
def test_litellm(tiny, clients):
    found = calls(clients, "litellm", tiny.url)
    answer = expected(tiny.url, messages=[{"role": "user", "content": "hello"}])
    assert found["whole"] == found["streamed"] == found["anthropic"] == answer
    assert found["usage"] == 8 and found["text"] and "max_tokens" in found["refused"]


@pytest.mark.long
def test_lm_eval_reads_what_transformers_computes(tiny, clients, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    _task(tmp_path, "choose", "multiple_choice", CHOICES)
    arguments = f"model=raylm,base_url={tiny.url}/completions,tokenizer={tiny.model},num_concurrent=2,max_length=512"
    samples = _lm_eval(clients, tmp_path, "local-completions", arguments, "choose")
    tokenizer, network = load_tokenizer(str(tiny.model)), AutoModelForCausalLM.from_pretrained(tiny.model)
    for sample in samples:
        for choice, (logprob, _) in zip(sample["doc"]["choices"], (each[0] for each in sample["resps"]), strict=True):
            context = tokenizer.encode(sample["doc"]["question"], add_special_tokens=False)
            whole = tokenizer.encode(sample["doc"]["question"] + " " + choice, add_special_tokens=False)
            with torch.no_grad():
                logits = network(torch.tensor([whole])).logits[0].log_softmax(-1)
            told = sum(logits[at - 1, whole[at]].item() for at in range(len(context), len(whole)))
            assert float(logprob) == pytest.approx(told, abs=1e-2)


@pytest.mark.long
def test_lm_eval_chats(tiny, clients, tmp_path):
    _task(tmp_path, "say", "generate_until", GENERATES)
    arguments = f"model=raylm,base_url={tiny.url}/chat/completions,num_concurrent=2"
    for sample in _lm_eval(clients, tmp_path, "local-chat-completions", arguments, "say", "--apply_chat_template"):
        turns = [{"role": "user", "content": sample["doc"]["question"]}]
        assert sample["resps"][0][0] == expected(tiny.url, messages=turns, max_tokens=6)


def _task(folder: Path, name: str, kind: str, rest: str) -> None:
    rows = folder / f"{name}.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in DOCUMENTS))
    (folder / f"{name}.yaml").write_text(TASK.format(name=name, rows=rows, kind=kind) + rest)


def _lm_eval(python: Path, folder: Path, kind: str, arguments: str, task: str, *further: str) -> list[dict[str, Any]]:
    """Samples of one task."""
    command = [str(python.parent / "lm_eval"), "--model", kind, "--model_args", arguments, "--tasks", task, *further]
    command += ["--include_path", str(folder), "--output_path", str(folder / "out"), "--log_samples"]
    cache = {"HF_DATASETS_CACHE": str(folder / "cache"), "HF_HOME": str(folder / "home")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False, env=_environment() | cache)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    (file,) = (folder / "out").rglob("samples_*.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_what_open_webui_sends(tiny):
    """https://github.com/open-webui/open-webui, `backend/open_webui/routers/openai.py`: `get_all_models`, then
    `generate_chat_completion` with what the page adds, and the tasks that name a chat and suggest what to ask next."""
    who = {"x-openwebui-user-name": "Alice", "x-openwebui-user-id": "1", "x-openwebui-user-role": "user"}
    status, text = _as_open_webui(tiny.url, "/models", None, who)
    (model,) = json.loads(text)["data"]
    assert status == 200 and model["object"] == "model" and model["owned_by"] and model["id"] == "raylm"
    page = {
        "chat_id": "c0ffee",
        "session_id": "s1",
        "id": "m1",
        "features": {"web_search": False, "image_generation": False, "code_interpreter": False, "memory": False},
        "variables": {"{{USER_NAME}}": "Alice", "{{CURRENT_DATE}}": "2026-11-30"},
        "background_tasks": {"title_generation": True, "tags_generation": True, "follow_up_generation": True},
        "model_item": {**model, "connection_type": "external", "name": "raylm", "urlIdx": 0, "actions": [], "tags": []},
        "filter_ids": [],
        "tool_servers": [],
        "params": {},
        "files": None,
    }
    turns = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hello"}]
    asked = {"stream": True, "model": "raylm", "messages": turns, "max_tokens": 8, "temperature": 0}
    status, text = _as_open_webui(
        tiny.url, "/chat/completions", {**asked, **page, "stream_options": {"include_usage": True}}, who
    )
    assert status == 200, text
    *events, done = [event.removeprefix("data: ") for event in text.strip().split("\n\n")]
    chunks = [json.loads(event) for event in events]
    assert done == "[DONE]" and chunks[-1]["usage"]["completion_tokens"] == 8
    told = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks if chunk["choices"])
    assert told == expected(tiny.url, messages=turns)
    title = {
        "model": "raylm",
        "messages": [{"role": "user", "content": "### Task: a title"}],
        "stream": False,
        "max_completion_tokens": 9,
    }
    status, text = _as_open_webui(tiny.url, "/chat/completions", title, who)
    assert status == 200 and json.loads(text)["usage"]["completion_tokens"] <= 9


def _as_open_webui(url: str, path: str, body: Any, who: dict[str, str]) -> tuple[int, str]:
    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json", **who}
    request = urllib.request.Request(url + path, headers=headers, data=json.dumps(body).encode() if body else None)
    with urllib.request.urlopen(request, timeout=60) as reply:
        return reply.status, reply.read().decode()
