"""An endpoint as a real HTTP server: scores, retries, deadlines, refusals, how many requests run at a time."""

import json
import math
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from raylm.core.errors import ConfigError, DataError
from raylm.prepare.score.endpoint import Endpoint


class Server(ThreadingHTTPServer):
    """Answers what the document itself asks for: `say X`, `status N` or `fail twice` or `slow`."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen, self.lock, self.running, self.most = [], threading.Lock(), 0, 0
        self.tries = {}


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        content, server = body["messages"][0]["content"], self.server
        with server.lock:
            server.seen.append((self.path, self.headers["Authorization"], body))
            server.tries[content] = server.tries.get(content, 0) + 1
            server.running += 1
            server.most = max(server.most, server.running)
        time.sleep(1.0 if "slow" in content else 0.02)
        with server.lock:
            server.running -= 1
        status, said = 200, content.partition("say ")[2]
        if "status" in content:
            status = int(content.split("status ")[1][:3])
        elif "fail once" in content and server.tries[content] == 1:
            status = 503
        answer = {"choices": [{"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}]}
        answer |= {"id": "1", "object": "chat.completion", "created": 0, "model": body["model"]}
        data = json.dumps(answer if status == 200 else {"error": {"message": f"said {status}"}}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def server():
    held = Server()
    threading.Thread(target=held.serve_forever, daemon=True).start()
    yield held
    held.shutdown()
    held.server_close()


def card(server, **more):
    return Endpoint(**{"url": f"http://127.0.0.1:{server.server_port}/v1", "model": "judge", "prompt": "Rate: {text}"} | more)


def scored(card, texts):
    made = card.score(pa.table({"text": pa.array(texts, pa.large_string())}))
    assert tuple(made) == card.columns()
    values, failed = made.values()
    assert values.dtype == np.float32
    return [None if math.isnan(value) else value for value in values.tolist()], failed.to_pylist()


def test_scores_and_what_is_none(server):
    texts = [
        "say Good. Score: 4",
        "say score: 1 ... no, Score: **2.5**",
        "say I would rather not",
        "say Score: 9",
        "say",
        "say Score: 0",
    ]
    values, failed = scored(card(server), texts)
    assert values == [4, 2.5, None, None, None, 0]
    assert failed == ["", "", "unparsable", "out_of_range", "unparsable", ""]


def test_what_is_sent(server, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "secret")
    scored(card(server, key="JUDGE_KEY", max_chars=5, max_tokens=7), ["12345678 {text}"])
    ((path, key, body),) = server.seen
    assert path == "/v1/chat/completions" and key == "Bearer secret"
    assert body["messages"] == [{"role": "user", "content": "Rate: 12345"}]
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("judge", 0.0, 7)


def test_the_key_is_no_part_of_the_identity(server):
    assert card(server, key="A", concurrency=3).fingerprint() == card(server, key="B").fingerprint()


def test_tried_again_until_it_answers_or_the_deadline(server):
    values, failed = scored(card(server, deadline_s=1.2), ["fail once say Score: 3", "status 500", "status 429", "status 400"])
    assert (values, failed) == ([3, None, None, None], ["", "unanswered", "unanswered", "refused"])
    assert server.tries["Rate: fail once say Score: 3"] == 2
    assert server.tries["Rate: status 500"] >= 2 and server.tries["Rate: status 400"] == 1


def test_a_slow_answer_counts_as_none(server):
    assert scored(card(server, deadline_s=0.3), ["slow say Score: 3"]) == ([None], ["unanswered"])


def test_no_endpoint_answers(server):
    gone = card(server, url="http://127.0.0.1:9/v1", deadline_s=0.3)
    assert scored(gone, ["a"]) == ([None], ["unanswered"])
    with pytest.raises(DataError, match="20 of 20 documents have no score: 20 unanswered"):
        # of a larger batch the rest is not waited for
        scored(gone, ["a"] * 500)
    # allowed to fail as a whole, every document still has its row
    assert scored(card(server, url="http://127.0.0.1:9/v1", deadline_s=0.3, max_failed=1.0), ["a"] * 50)[1] == ["unanswered"] * 50


def test_a_batch_may_have_some_without_a_score(server):
    texts = ["say Score: 1"] * 16 + ["say no"] * 4
    assert scored(card(server), texts)[1].count("unparsable") == 4
    with pytest.raises(DataError, match="5 of 20"):
        scored(card(server), [*texts[1:], "say no"])


@pytest.mark.parametrize("status", [401, 403, 404])
def test_refusals_that_no_other_document_would_escape(server, status):
    with pytest.raises(ConfigError, match=f"said {status}(.|\n)*OPENAI_API_KEY"):
        scored(card(server), [f"status {status}"])


def test_no_more_requests_at_a_time_than_allowed(server):
    scored(card(server, concurrency=4), [f"{at} say Score: 1" for at in range(24)])
    assert 2 <= server.most <= 4


def test_fields_are_checked():
    for more, said in (
        ({"prompt": "no place"}, "has no {text}"),
        ({"pattern": r"\d"}, "no group"),
        ({"pattern": "("}, "no regular"),
        ({"min": 6}, "no score lies between"),
    ):
        with pytest.raises(ValidationError, match=said):
            Endpoint(url="http://x", model="m", **more)
    assert "{text}" in Endpoint(url="http://x", model="m").prompt
